"""manifest.json, parsed and checked: see docs/bundle.md for what every entry means."""

import re
from typing import Any, Dict, List, NamedTuple, Tuple

from ..errors import BundleError, printable, quoted
from ..images.preprocess import Preprocessing
from ..records import Block, Segment, Shape, Step, Value
from .format import FORMAT, GATED_FORMAT, is_safe_name
from .jsonfile import Object, check_format, parse_object
from .plan import DOMAIN, with_skipped
from .plan_check import check_plan

# What a manifest may ask for. Buffers and blank tensors are set aside by its shapes before any file is read, and so
# each has a bound, several times that of EfficientNet-B7 at 600 px.
_MOST_DIMENSIONS = 8
_MOST_NUMBERS = 1 << 25  # of one value, for one image
_MOST_VALUES = 1 << 27  # numbers of all values that steps write
_MOST_TENSORS = 1 << 26  # numbers of all tensors of a domain
_MOST_STEPS, _MOST_BLOCKS = 4096, 1024
_MOST_BYTES = 1 << 29  # of the files of all steps, each of which has its own copy
_MOST_FLOPS = 1e15  # of one block
_LONGEST_NAME = 256
_LARGEST_SIDE = 8192  # pixels of a picture's shorter side, before the crop
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


class FileEntry(NamedTuple):
    """What the manifest promises about one file."""

    sha256: str
    bytes: int


class Manifest(NamedTuple):
    """A bundle without its domains. backbone and adaptor: the JSON objects as written."""

    format: int
    created_by: str
    backbone: Dict[str, Any]
    backbone_sha256: str
    preprocessing: Preprocessing
    adaptor: Dict[str, Any]
    blocks: Tuple[Block, ...]
    segments: Dict[str, Segment]
    plan: Tuple[Step, ...]
    files: Dict[str, FileEntry]

    @property
    def arch(self) -> str:
        """The backbone's architecture, for people; nothing is decided by it."""
        return str(self.backbone.get("arch", "unknown"))


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The Manifest in the bytes of manifest.json. Raises BundleError at the first entry that is wrong."""
    root = parse_object(data, where)
    number = check_format(root, FORMAT)
    files = {name: _file(name, root.object("files")) for name in root.plain("files")}
    segments = {name: _segment(name, root.object("segments")) for name in root.plain("segments")}
    for segment in segments.values():
        if segment.file not in files:
            raise BundleError(
                "%s: segment %s names %s, which `files` does not list" % (where, segment.name, segment.file)
            )
    manifest = Manifest(
        format=number,
        created_by=root.text("created_by"),
        backbone=root.plain("backbone"),
        backbone_sha256=sha256_entry(root.object("backbone"), "sha256"),
        preprocessing=_preprocessing(root.object("preprocessing")),
        adaptor=root.plain("adaptor"),
        blocks=tuple(_block(b) for b in root.objects("blocks")),
        segments=segments,
        plan=tuple(_step(s, number) for s in root.objects("plan")),
        files=files,
    )
    if max(len(manifest.plan), len(segments)) > _MOST_STEPS or len(manifest.blocks) > _MOST_BLOCKS:
        raise BundleError("%s: more than %d steps or %d blocks" % (where, _MOST_STEPS, _MOST_BLOCKS))
    check_plan(manifest.plan, manifest.segments, manifest.blocks, manifest.preprocessing.size, where)
    _check_totals(manifest, where)
    return manifest


def _check_totals(manifest: Manifest, where: str) -> None:
    """Raise BundleError where all values together, or all tensors or files, are too much. The plan is sound."""
    steps = with_skipped(manifest.plan)
    values = sum(_numbers(v.shape) for step in steps for v in manifest.segments[step.segment].outputs)
    tensors: Dict[str, int] = {}
    for step in steps:
        for name, value in zip(step.inputs, manifest.segments[step.segment].inputs):
            if name.startswith(DOMAIN):
                tensors[name] = max(tensors.get(name, 0), _numbers(value.shape))
    nbytes = sum(manifest.files[manifest.segments[step.segment].file].bytes for step in steps)
    for found, most, what in (
        (values, _MOST_VALUES, "numbers in the values of its plan"),
        (sum(tensors.values()), _MOST_TENSORS, "numbers in the tensors of a domain"),
        (nbytes, _MOST_BYTES, "bytes in the files of its steps"),
    ):
        if found > most:
            raise BundleError("%s: %d %s, more than the %d allowed" % (where, found, what, most))


def _numbers(shape: Shape) -> int:
    """How many numbers a value has, for one image and one class."""
    count = 1
    for n in shape:
        count *= n if isinstance(n, int) else 1
    return count


def checked_name(text: str, where: str) -> str:
    """What a value, a segment or a block is called. Raises BundleError for a name that cannot be printed in a line."""
    if not 0 < len(text) <= _LONGEST_NAME or printable(text) != text:
        raise BundleError("%s: %s is no name of up to %d letters" % (where, quoted(text), _LONGEST_NAME))
    return text


def sha256_entry(obj: Object, key: str) -> str:
    """A sha256 written as 64 lower-case hex digits."""
    text = obj.text(key)
    if _SHA256.match(text) is None:
        raise BundleError("%s: %s must be 64 lower-case hex digits, not %r" % (obj.where, key, text[:80]))
    return text


def _file(name: str, files: Object) -> FileEntry:
    if not is_safe_name(name) or name.split("/")[0] not in ("backbone", "adaptors") or "/" not in name:
        raise BundleError("%s: unsafe file name %r: only backbone/* and adaptors/* are allowed" % (files.where, name))
    entry = files.object(name)
    size = entry.integer("bytes")
    if size < 0:
        raise BundleError("%s: bytes must not be negative" % entry.where)
    return FileEntry(sha256_entry(entry, "sha256"), size)


def _segment(name: str, segments: Object) -> Segment:
    entry = segments.object(checked_name(name, segments.where))
    return Segment(name, entry.text("file"), _values(entry, "inputs"), _values(entry, "outputs"))


def _values(entry: Object, key: str) -> Tuple[Value, ...]:
    values: List[Value] = []
    for value in entry.objects(key):
        shape = tuple(value.items("shape"))
        if not all((type(n) is int and n >= 0) or (isinstance(n, str) and n) for n in shape):
            raise BundleError("%s: shape must hold integers and names, not %s" % (value.where, quoted(shape)))
        if len(shape) > _MOST_DIMENSIONS or _numbers(shape) > _MOST_NUMBERS:
            raise BundleError(
                "%s: shape %s has more than %d dimensions or %d numbers"
                % (value.where, quoted(list(shape)), _MOST_DIMENSIONS, _MOST_NUMBERS)
            )
        values.append(Value(_name(value, "name"), shape))
    return tuple(values)


def _preprocessing(entry: Object) -> Preprocessing:
    numbers = {}
    for key in ("mean", "std"):
        values = entry.items(key)
        if len(values) != 3 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
            raise BundleError("%s: %s must be three numbers" % (entry.where, key))
        numbers[key] = (float(values[0]), float(values[1]), float(values[2]))
    size, crop = entry.integer("size"), entry.number("crop")
    if size < 1 or not 0 < crop <= 1 or min(numbers["std"]) <= 0:
        raise BundleError("%s: size and std must be positive and crop in (0, 1]" % entry.where)
    if size > _LARGEST_SIDE * crop:
        raise BundleError(
            "%s: size / crop is the shorter side of a picture, and may be %d pixels at most, not %g"
            % (entry.where, _LARGEST_SIDE, min(size / crop, 1e300))
        )
    # Beyond these an input of float32 is none any more: they are on the 0..1 scale.
    if max(map(abs, numbers["mean"])) > 1000 or not 1e-4 <= min(numbers["std"]) <= max(numbers["std"]) <= 1e4:
        raise BundleError("%s: mean is from -1000 to 1000, and std from 0.0001 to 10000" % entry.where)
    return Preprocessing(size, crop, numbers["mean"], numbers["std"])


def _block(entry: Object) -> Block:
    skip = entry.number("skip_flops") if entry.optional("skip_flops") is not None else None
    flops = entry.number("flops")
    if flops < 0 or (skip is not None and not 0 <= skip <= flops):
        raise BundleError("%s: flops must be at least skip_flops, and both at least 0" % entry.where)
    if flops > _MOST_FLOPS:
        raise BundleError("%s: flops are %g at most, not %g" % (entry.where, _MOST_FLOPS, flops))
    return Block(_name(entry, "name"), flops, skip)


def _name(entry: Object, key: str) -> str:
    return checked_name(entry.text(key), entry.where)


def _step(entry: Object, number: int) -> Step:
    """number: the manifest's format."""
    inputs = tuple(entry.texts("inputs"))
    skip = entry.text("skip") if entry.optional("skip") is not None else None
    other = tuple(entry.texts("skip_inputs")) if entry.optional("skip_inputs") is not None else None
    if other is not None and skip is None:
        raise BundleError("%s: skip_inputs, but no skip" % entry.where)
    step = Step(
        segment=entry.text("segment"),
        inputs=inputs,
        outputs=tuple(entry.texts("outputs")),
        block=entry.integer("block") if entry.optional("block") is not None else None,
        gate=entry.text("gate") if entry.optional("gate") is not None else None,
        skip=skip,
        skip_inputs=() if skip is None else inputs if other is None else other,
        exit=entry.optional("exit") is not None and entry.flag("exit"),
    )
    if number <= GATED_FORMAT and (step.exit or (step.gate is None) != (step.skip is None)):
        raise BundleError(
            "%s: format 1 has no exits, and a gateable step needs all of gate, skip and block" % entry.where
        )
    return step
