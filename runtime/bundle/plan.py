"""The words of a plan, and what can be read off it."""

from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ..errors import BundleError
from ..records import Segment, Shape, Step

IMAGE = "image"
LOGITS = "logits"
DOMAIN = "domain:"
BATCH = "batch"


def with_skipped(plan: Iterable[Step]) -> List[Step]:
    """Every step, each that has a gate followed by what is done in its place."""
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


def skip_tensors(plan: Sequence[Step]) -> Set[str]:
    """The tensors that only skipped blocks need: a domain without gates may lack them."""
    names = {name for step in with_skipped(plan) for name in step.inputs}
    names -= {name for step in plan for name in step.inputs}
    return {name[len(DOMAIN) :] for name in names if name.startswith(DOMAIN)}


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
