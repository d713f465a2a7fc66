"""manifest.json, parsed and checked: see docs/bundle.md for what every entry means."""

import re
from typing import Any, Dict, List, NamedTuple, Tuple

from ..errors import BundleError
from ..images.preprocess import Preprocessing
from ..records import Block, Segment, Step, Value
from .format import FORMAT, GATED_FORMAT, is_safe_name
from .jsonfile import Object, check_format, parse_object
from .plan_check import check_plan

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
    check_plan(manifest.plan, manifest.segments, manifest.blocks, manifest.preprocessing.size, where)
    return manifest


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
    entry = segments.object(name)
    return Segment(name, entry.text("file"), _values(entry, "inputs"), _values(entry, "outputs"))


def _values(entry: Object, key: str) -> Tuple[Value, ...]:
    values: List[Value] = []
    for value in entry.objects(key):
        shape = tuple(value.items("shape"))
        if not all((type(n) is int and n >= 0) or (isinstance(n, str) and n) for n in shape):
            raise BundleError("%s: shape must hold integers and names, not %s" % (value.where, list(shape)))
        values.append(Value(value.text("name"), shape))
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
    return Preprocessing(size, crop, numbers["mean"], numbers["std"])


def _block(entry: Object) -> Block:
    skip = entry.number("skip_flops") if entry.optional("skip_flops") is not None else None
    flops = entry.number("flops")
    if flops < 0 or (skip is not None and not 0 <= skip <= flops):
        raise BundleError("%s: flops must be at least skip_flops, and both at least 0" % entry.where)
    return Block(entry.text("name"), flops, skip)


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
