"""The words of a plan, and what can be read off it."""

from typing import Collection, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import BundleError
from ..records import Segment, Shape, Step

IMAGE = "image"
LOGITS = "logits"
DOMAIN = "domain:"
BATCH = "batch"


def with_skipped(plan: Iterable[Step]) -> List[Step]:
    """Every step, each that can be skipped followed by what is done in its place."""
    return [one for step in plan for one in ([step] if step.skip is None else [step, step.skipped])]


def domain_inputs(plan: Sequence[Step], segments: Dict[str, Segment]) -> Dict[str, Tuple[Shape, ...]]:
    """Every tensor a domain must hold -> the shapes the plan reads it with."""
    wanted: Dict[str, Tuple[Shape, ...]] = {}
    for step in with_skipped(plan):
        for name, value in zip(step.inputs, segments[step.segment].inputs):
            if name.startswith(DOMAIN):
                key = name[len(DOMAIN) :]
                wanted[key] = wanted.get(key, ()) + (value.shape,)
    return wanted


def exit_steps(plan: Sequence[Step]) -> List[Step]:
    """The plan's exits, in its order: exit number i is the i-th of them."""
    return [step for step in plan if step.exit]


def closable(plan: Sequence[Step]) -> Set[int]:
    """Numbers of the blocks that can be skipped."""
    return {step.block for step in plan if step.skip is not None and step.block is not None}


def skip_tensors(plan: Sequence[Step], closed: Collection[int] = ()) -> Set[str]:
    """The tensors that only skipped blocks other than those in `closed` need: a domain may lack them that skips no
    other block."""
    needed = [step.skipped if step.skip is not None and step.block in closed else step for step in plan]
    names = {name for step in with_skipped(plan) for name in step.inputs}
    names -= {name for step in list(plan) + needed for name in step.inputs}
    return {name[len(DOMAIN) :] for name in names if name.startswith(DOMAIN)}


def exit_tensors(plan: Sequence[Step]) -> Set[str]:
    """The tensors of the exits: those that the last answer needs only because exits are carried on to it."""
    exits = {name for step in exit_steps(plan) for name in step.outputs}
    needed: Set[str] = {LOGITS}
    for step in reversed(plan):
        if not needed.isdisjoint(step.outputs):
            needed.update(name for name in step.inputs + step.skip_inputs if name not in exits)
            needed.update([] if step.gate is None else [step.gate])
    own: Set[str] = set(exits)
    for step in reversed(plan):
        if not own.isdisjoint(step.outputs) and needed.isdisjoint(step.outputs):
            own.update(step.inputs)
    return {name[len(DOMAIN) :] for name in own - needed if name.startswith(DOMAIN)}


def logits_shape(plan: Sequence[Step], segments: Dict[str, Segment]) -> Shape:
    """The shape of the plan's result, (batch, classes); either entry may be a name."""
    for step in plan:
        if LOGITS in step.outputs:
            return segments[step.segment].outputs[step.outputs.index(LOGITS)].shape
    raise BundleError("no plan step writes %r" % LOGITS)


def sized(shape: Shape, sizes: Mapping[str, int]) -> Optional[Tuple[int, ...]]:
    """A shape with its free dimensions filled in; None where one is unknown."""
    known = [sizes.get(n) if isinstance(n, str) else n for n in shape]
    return tuple(n for n in known if n is not None) if None not in known else None
