"""Is a plan sound? Checked once when a bundle is opened, so that the hot loop need not check anything."""

from typing import Dict, Sequence, Set

from ..errors import BundleError
from ..records import Block, Segment, Shape, Step, Value
from .plan import BATCH, DOMAIN, IMAGE, LOGITS


def check_plan(
    plan: Sequence[Step], segments: Dict[str, Segment], blocks: Sequence[Block], size: int, where: str
) -> None:
    """Raise BundleError at the first step that could not run: an unknown segment, a value read before it is
    written, shapes that do not meet, a gate without its skip segment, an exit that answers nothing. size: the image's
    side; where: for errors."""
    check = _Check(segments, blocks, size, where)
    for number, step in enumerate(plan):
        check.step(step, "%s: plan step %d (%s)" % (where, number, step.segment))
    check.end()


class _Check:
    """A plan checked as far as the steps seen so far."""

    def __init__(self, segments: Dict[str, Segment], blocks: Sequence[Block], size: int, where: str) -> None:
        self._segments = segments
        self._blocks = blocks
        self._where = where
        self._shapes: Dict[str, Shape] = {IMAGE: (BATCH, 3, size, size)}  # of every value written so far
        self._placed: Set[int] = set()  # blocks that a step runs
        self._gated = False
        self._exits: Dict[str, Shape] = {}  # answers at which a picture may leave

    def step(self, step: Step, at: str) -> None:
        """at: what errors call the step."""
        segment = self._segment(step.segment, at)
        self._check_reads(step, segment, at)
        if step.block is not None:
            if not 0 <= step.block < len(self._blocks):
                raise BundleError("%s: block %d, but `blocks` has %d" % (at, step.block, len(self._blocks)))
            if step.block in self._placed:
                raise BundleError("%s: block %d is run by an earlier step too" % (at, step.block))
            self._placed.add(step.block)
        self._check_skip(step, segment, at)
        for name, value in zip(step.outputs, segment.outputs):
            if name in self._shapes or name.startswith(DOMAIN):
                raise BundleError("%s: writes %s, which is already written" % (at, name))
            self._shapes[name] = value.shape
        self._gated = self._gated or step.gate is not None
        if step.exit:
            self._check_exit(step, segment, at)

    def end(self) -> None:
        """All steps were seen."""
        logits = self._shapes.get(LOGITS)
        if logits is None:
            raise BundleError("%s: no plan step writes %r" % (self._where, LOGITS))
        if len(logits) != 2 or logits[0] != BATCH:
            raise BundleError("%s: %r must have shape (batch, classes), not %s" % (self._where, LOGITS, _show(logits)))
        for name, shape in self._exits.items():
            if name == LOGITS or shape != logits:
                raise BundleError(
                    "%s: the exit %s must have the shape of %r, %s, and another name"
                    % (self._where, name, LOGITS, _show(logits))
                )
        if self._exits and self._gated:
            raise BundleError("%s: a plan has gates or exits, not both" % self._where)

    def _segment(self, name: str, at: str) -> Segment:
        if name not in self._segments:
            raise BundleError("%s: no segment is called %r" % (at, name))
        return self._segments[name]

    def _check_reads(self, step: Step, segment: Segment, at: str) -> None:
        if len(step.inputs) != len(segment.inputs) or len(step.outputs) != len(segment.outputs):
            raise BundleError(
                "%s: %d inputs and %d outputs, but the segment has %d and %d"
                % (at, len(step.inputs), len(step.outputs), len(segment.inputs), len(segment.outputs))
            )
        for name, value in zip(step.inputs, segment.inputs):
            self._check_input(name, value, at)

    def _check_input(self, name: str, value: Value, at: str) -> None:
        if name.startswith(DOMAIN):
            if BATCH in value.shape:
                raise BundleError("%s: %s cannot have a batch dimension" % (at, name))
            return
        if name not in self._shapes:
            raise BundleError("%s: reads %s before any step writes it" % (at, name))
        if not _meet(self._shapes[name], value.shape):
            raise BundleError(
                "%s: %s has shape %s, the segment's input %s takes %s"
                % (at, name, _show(self._shapes[name]), value.name, _show(value.shape))
            )

    def _check_exit(self, step: Step, segment: Segment, at: str) -> None:
        if len(step.outputs) != 1 or step.block is not None:
            raise BundleError("%s: an exit has one output and runs no block" % at)
        self._exits[step.outputs[0]] = segment.outputs[0].shape

    def _check_skip(self, step: Step, segment: Segment, at: str) -> None:
        if step.gate is None and step.skip is None:
            return
        if step.skip is None or step.block is None:
            raise BundleError("%s: a gateable step needs all of gate, skip and block" % at)
        if step.gate is not None and self._shapes.get(step.gate) != (BATCH,):
            raise BundleError("%s: gate %s must be an earlier value of shape (batch,)" % (at, step.gate))
        if self._blocks[step.block].skip_flops is None:
            raise BundleError("%s: can be skipped, but skip_flops of block %d is null" % (at, step.block))
        skip = self._segment(step.skip, at)
        self._check_reads(step.skipped, skip, "%s: its skip segment %s" % (at, step.skip))
        if not all(_meet(a.shape, b.shape) for a, b in zip(segment.outputs, skip.outputs)):
            raise BundleError("%s: its skip segment %s has other outputs" % (at, step.skip))
        strange = [n for n in step.skip_inputs if n not in step.inputs and not n.startswith(DOMAIN)]
        if strange:
            raise BundleError("%s: its skip segment %s reads %s, which it does not" % (at, step.skip, strange[0]))
        if not any(v.shape[:1] == (BATCH,) for v in segment.inputs):
            raise BundleError("%s: a step that can be skipped needs an input with a batch dimension" % at)
        if not all(v.shape[:1] == (BATCH,) for v in segment.outputs):
            raise BundleError("%s: every output of a step that can be skipped needs a batch dimension" % at)


def _meet(a: Shape, b: Shape) -> bool:
    """Equal rank and equal integers; a name meets anything but `batch` meets only itself."""
    return len(a) == len(b) and all(
        x == y or (BATCH not in (x, y) and (isinstance(x, str) or isinstance(y, str))) for x, y in zip(a, b)
    )


def _show(shape: Shape) -> str:
    return "(%s)" % ", ".join(str(n) for n in shape)
