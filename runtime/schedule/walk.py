"""Running a plan step by step, for whoever must see what each step reads and writes.

The scheduler is the fast way: it runs subgraphs of several steps on a backend, and most values never reach the host.
Here every step is a call of its own, on arrays. Both ask `decisions` whether a block runs.
"""

from typing import Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH, DOMAIN, IMAGE, closable
from ..records import Array, Domain, Step
from .decisions import Overrides, check_overrides, closed_blocks, forced, opens, threshold

# A step and its inputs, positional with those of its segment -> the outputs, positional too.
RunStep = Callable[[Step, List[Array]], Sequence[Array]]


class Visit(NamedTuple):
    """One step of the plan, done. step: as the plan has it. ran: bool (B,), False for the images for which
    `step.skipped` was done in its place. read: the values of the plan that either reads; written: those it wrote."""

    step: Step
    ran: Array
    read: Dict[str, Array]
    written: Dict[str, Array]


def inputs_of(step: Step, values: Mapping[str, Array], domain: Domain) -> List[Array]:
    """What a step reads, in the order of its segment's inputs: values of the plan by name, and the domain's weights."""
    return [domain.weights[name[len(DOMAIN) :]] if name.startswith(DOMAIN) else values[name] for name in step.inputs]


def walk(
    manifest: Manifest, domain: Domain, images: Array, run_step: RunStep, overrides: Optional[Overrides] = None
) -> Iterator[Visit]:
    """The plan's steps in order, each done when the iterator is advanced to it. No picture leaves at an exit.

    domain: `fitted` to the manifest. images: float32 (B, 3, size, size), preprocessed. run_step: called with a step, or
    with what is done in its place, and with the rows of the images that need it. Raises DomainError for overrides of
    blocks that cannot be skipped.
    """
    overrides = {} if overrides is None else overrides
    check_overrides(overrides, len(manifest.blocks), closable(manifest.plan))
    gated = {step.block for step in manifest.plan if step.gate is not None and step.block is not None}
    closed = closed_blocks(domain.closed, overrides, gated)
    theta = threshold(domain.theta)
    values: Dict[str, Array] = {IMAGE: images}

    def run(one: Step, chosen: Array) -> Sequence[Array]:
        inputs = inputs_of(one, values, domain)
        if not chosen.all():
            taken = manifest.segments[one.segment].inputs
            inputs = [a[chosen] if value.shape[:1] == (BATCH,) else a for a, value in zip(inputs, taken)]
        return run_step(one, inputs)

    for step in manifest.plan:
        decided = False if step.block in closed else forced(step.gate, step.block, domain.gated, overrides)
        if decided is None:
            assert step.gate is not None
            ran: Array = opens(values[step.gate], theta)
        else:
            ran = np.full(len(images), decided)
        if ran.all():
            outputs = run(step, ran)
        elif not ran.any():
            outputs = run(step.skipped, ~ran)
        else:
            outputs = _merged(ran, run(step, ran), run(step.skipped, ~ran))
        read = {name: values[name] for name in step.inputs if not name.startswith(DOMAIN)}
        written = dict(zip(step.outputs, outputs))
        values.update(written)
        yield Visit(step, ran, read, written)


def _merged(ran: Array, here: Sequence[Array], elsewhere: Sequence[Array]) -> List[Array]:
    """Outputs for a whole batch, of those for the images where `ran` is True and of those for the others."""
    merged: List[Array] = []
    for a, b in zip(here, elsewhere):
        whole = np.empty((len(ran),) + a.shape[1:], a.dtype)
        whole[ran], whole[~ran] = a, b
        merged.append(whole)
    return merged
