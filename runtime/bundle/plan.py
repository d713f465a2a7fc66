"""Is a plan sound? Checked once when a bundle is opened, so that the hot loop need not check anything."""

from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import BundleError
from ..records import Block, Segment, Shape, Step, Value

IMAGE = "image"
LOGITS = "logits"
DOMAIN = "domain:"
BATCH = "batch"


def check_plan(
    plan: Sequence[Step], segments: Dict[str, Segment], blocks: Sequence[Block], size: int, where: str
) -> None:
    """Raise BundleError at the first step that could not run: an unknown segment, a value read before it is
    written, shapes that do not meet, a gate without its skip segment."""
    shapes: Dict[str, Shape] = {IMAGE: (BATCH, 3, size, size)}
    placed: Set[int] = set()
    for number, step in enumerate(plan):
        at = "%s: plan step %d (%s)" % (where, number, step.segment)
        segment = _segment(segments, step.segment, at)
        _check_reads(step, segment, shapes, at)
        if step.block is not None:
            if not 0 <= step.block < len(blocks):
                raise BundleError("%s: block %d, but `blocks` has %d" % (at, step.block, len(blocks)))
            if step.block in placed:
                raise BundleError("%s: block %d is run by an earlier step too" % (at, step.block))
            placed.add(step.block)
        _check_gate(step, segment, segments, blocks, shapes, at)
        for name, value in zip(step.outputs, segment.outputs):
            if name in shapes or name.startswith(DOMAIN):
                raise BundleError("%s: writes %s, which is already written" % (at, name))
            shapes[name] = value.shape
    logits = shapes.get(LOGITS)
    if logits is None:
        raise BundleError("%s: no plan step writes %r" % (where, LOGITS))
    if len(logits) != 2 or logits[0] != BATCH:
        raise BundleError("%s: %r must have shape (batch, classes), not %s" % (where, LOGITS, _show(logits)))


def domain_inputs(plan: Sequence[Step], segments: Dict[str, Segment]) -> Dict[str, Tuple[Shape, ...]]:
    """Every tensor a domain must hold -> the shapes the plan reads it with."""
    wanted: Dict[str, Tuple[Shape, ...]] = {}
    for step in with_skipped(plan):
        for name, value in zip(step.inputs, segments[step.segment].inputs):
            if name.startswith(DOMAIN):
                key = name[len(DOMAIN) :]
                wanted[key] = wanted.get(key, ()) + (value.shape,)
    return wanted


def skip_tensors(plan: Sequence[Step]) -> Set[str]:
    """The tensors that only skipped blocks need: a domain without gates may lack them."""
    names = {name for step in with_skipped(plan) for name in step.inputs}
    names -= {name for step in plan for name in step.inputs}
    return {name[len(DOMAIN) :] for name in names if name.startswith(DOMAIN)}


def with_skipped(plan: Iterable[Step]) -> List[Step]:
    """Every step, each that has a gate followed by what is done in its place."""
    return [one for step in plan for one in ([step] if step.skip is None else [step, step.skipped])]


def logits_shape(plan: Sequence[Step], segments: Dict[str, Segment]) -> Shape:
    """The shape of the plan's result, (batch, classes); either entry may be a name."""
    for step in plan:
        if LOGITS in step.outputs:
            return segments[step.segment].outputs[step.outputs.index(LOGITS)].shape
    raise BundleError("no plan step writes %r" % LOGITS)


def _segment(segments: Dict[str, Segment], name: str, at: str) -> Segment:
    if name not in segments:
        raise BundleError("%s: no segment is called %r" % (at, name))
    return segments[name]


def _check_reads(step: Step, segment: Segment, shapes: Dict[str, Shape], at: str) -> None:
    if len(step.inputs) != len(segment.inputs) or len(step.outputs) != len(segment.outputs):
        raise BundleError(
            "%s: %d inputs and %d outputs, but the segment has %d and %d"
            % (at, len(step.inputs), len(step.outputs), len(segment.inputs), len(segment.outputs))
        )
    for name, value in zip(step.inputs, segment.inputs):
        _check_input(name, value, shapes, at)


def _check_input(name: str, value: Value, shapes: Dict[str, Shape], at: str) -> None:
    if name.startswith(DOMAIN):
        if BATCH in value.shape:
            raise BundleError("%s: %s cannot have a batch dimension" % (at, name))
        return
    if name not in shapes:
        raise BundleError("%s: reads %s before any step writes it" % (at, name))
    if not _meet(shapes[name], value.shape):
        raise BundleError(
            "%s: %s has shape %s, the segment's input %s takes %s"
            % (at, name, _show(shapes[name]), value.name, _show(value.shape))
        )


def _check_gate(
    step: Step,
    segment: Segment,
    segments: Dict[str, Segment],
    blocks: Sequence[Block],
    shapes: Dict[str, Shape],
    at: str,
) -> None:
    if step.gate is None and step.skip is None:
        return
    if step.gate is None or step.skip is None or step.block is None:
        raise BundleError("%s: a gateable step needs all of gate, skip and block" % at)
    if shapes.get(step.gate) != (BATCH,):
        raise BundleError("%s: gate %s must be an earlier value of shape (batch,)" % (at, step.gate))
    if blocks[step.block].skip_flops is None:
        raise BundleError("%s: has a gate, but skip_flops of block %d is null" % (at, step.block))
    skip = _segment(segments, step.skip, at)
    _check_reads(step.skipped, skip, shapes, "%s: its skip segment %s" % (at, step.skip))
    if not all(_meet(a.shape, b.shape) for a, b in zip(segment.outputs, skip.outputs)):
        raise BundleError("%s: its skip segment %s has other outputs" % (at, step.skip))
    strange = [n for n in step.skip_inputs if n not in step.inputs and not n.startswith(DOMAIN)]
    if strange:
        raise BundleError("%s: its skip segment %s reads %s, which it does not" % (at, step.skip, strange[0]))
    if not any(v.shape[:1] == (BATCH,) for v in segment.inputs):
        raise BundleError("%s: a gateable step needs an input with a batch dimension" % at)
    if not all(v.shape[:1] == (BATCH,) for v in segment.outputs):
        raise BundleError("%s: every output of a gateable step needs a batch dimension" % at)


def _meet(a: Shape, b: Shape) -> bool:
    """Equal rank and equal integers; a name meets anything but `batch` meets only itself."""
    return len(a) == len(b) and all(
        x == y or (BATCH not in (x, y) and (isinstance(x, str) or isinstance(y, str))) for x, y in zip(a, b)
    )


def _show(shape: Shape) -> str:
    return "(%s)" % ", ".join(str(n) for n in shape)


def sized(shape: Shape, sizes: Mapping[str, int]) -> Optional[Tuple[int, ...]]:
    """A shape with its free dimensions filled in; None where one is unknown."""
    known = [sizes.get(n) if isinstance(n, str) else n for n in shape]
    return tuple(n for n in known if n is not None) if None not in known else None
