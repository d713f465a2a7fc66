"""The plan, joined: which segments run as one subgraph, and which buffer each value between subgraphs lives in.

Every boundary between subgraphs costs a call and, on most engines, a change of memory layout, so steps that are never
skipped apart from each other are joined. How far depends on the device:

- A synchronous device (a CPU) finishes a subgraph before the host goes on, so what feeds a gated block is joined with
  it, both in the subgraph that runs the block and in the one that skips it. Such segments are then held twice. That
  costs nothing for segments without weights of their own (adaptors: their weights are inputs); others are held twice
  only where they are small.
- A device that works on while the host goes on (a GPU) should have computed a gate long before it is read: a subgraph
  ends behind the step that writes a gate, and a gated block is a subgraph of its own.
"""

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS, with_skipped
from ..errors import DomainError
from ..records import Array, Segment, Shape, Step, Value

DOUBLED_BYTES = 1 << 20  # a file up to this size may be held twice to save a call


class Subgraph(NamedTuple):
    """Steps that run as one. inputs and outputs: the plan's names of its values, positional with those of
    `segment`, the joined graph as seen from outside (`file` is that of a single step, "" for several)."""

    segment: Segment
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    steps: Tuple[Step, ...]


class Call(NamedTuple):
    """One call of the hot loop: `subgraph`; with a gate, `skip` in its place for images whose gate does not open.
    block: the block that the gate decides."""

    subgraph: Subgraph
    gate: Optional[str] = None
    skip: Optional[Subgraph] = None
    block: Optional[int] = None


class Layout(NamedTuple):
    """Calls in order. values: shape of every value that crosses subgraphs, image and logits among them.
    gates: those values that the host reads between calls. readable: those it may read after a run, logits among them.
    buffers: value -> number of the buffer it lives in; values that share one are never needed at once."""

    calls: Tuple[Call, ...]
    values: Dict[str, Shape]
    gates: Tuple[str, ...]
    readable: Tuple[str, ...]
    buffers: Dict[str, int]

    @property
    def subgraphs(self) -> List[Subgraph]:
        """Every subgraph once, those that skip among them."""
        return [subgraph for call in self.calls for subgraph in (call.subgraph, call.skip) if subgraph is not None]


def join_plan(manifest: Manifest, looks_ahead: bool, readable: Sequence[str] = ()) -> Layout:
    """The layout of a manifest's plan.

    looks_ahead: for a device that works on while the host goes on. readable: values that can be read after a run.
    """
    shapes = _shapes(manifest)
    unknown = [name for name in readable if name not in shapes or name.startswith(DOMAIN)]
    if unknown:
        known = ", ".join(name for name in shapes if not name.startswith(DOMAIN))
        raise DomainError("no value %r in the plan; it has: %s" % (unknown[0], known))
    groups = _ahead(manifest.plan) if looks_ahead else _behind(manifest)
    wanted = _wanted(groups, readable)
    calls: List[Call] = []
    for number, group in enumerate(groups):
        after = wanted[number]
        gated = [step for step in group if step.gate is not None]
        run = _subgraph(manifest, group, shapes, after)
        if not gated:
            calls.append(Call(run))
            continue
        step = gated[0]
        skipped = [step.skipped if s is step else s for s in group]
        calls.append(Call(run, step.gate, _subgraph(manifest, skipped, shapes, after), step.block))
    gates = tuple(call.gate for call in calls if call.gate is not None)
    values = {IMAGE: shapes[IMAGE]}
    for call in calls:
        values.update((name, shapes[name]) for name in call.subgraph.outputs)
    results = (LOGITS,) + tuple(name for name in readable if name != LOGITS)
    return Layout(tuple(calls), values, gates, results, _buffers(calls, values, set(gates + results)))


def whole_plan(manifest: Manifest) -> Subgraph:
    """Every step as one subgraph, all blocks on."""
    steps = [step.always for step in manifest.plan]
    return _subgraph(manifest, steps, _shapes(manifest), {LOGITS})


def _ahead(plan: Sequence[Step]) -> List[List[Step]]:
    """A gated step alone; before it, a cut behind the step that writes its gate."""
    groups: List[List[Step]] = []
    chain: List[Step] = []
    for step in plan:
        if step.gate is None:
            chain.append(step)
            continue
        cut = _writer(chain, step.gate) + 1
        groups += [group for group in (chain[:cut], chain[cut:], [step]) if group]
        chain = []
    return groups + [chain] if chain else groups


def _behind(manifest: Manifest) -> List[List[Step]]:
    """A gated step with the weightless steps before it, and with small ones behind it."""
    groups: List[List[Step]] = []
    chain: List[Step] = []
    for step in manifest.plan:
        if step.gate is None:
            chain.append(step)
            continue
        cut = len(chain)
        while cut > _writer(chain, step.gate) + 1 and _weightless(chain[cut - 1]):
            cut -= 1
        _append(groups, chain[:cut], manifest)
        groups.append(chain[cut:] + [step])
        chain = []
    _append(groups, chain, manifest)
    return groups


def _append(groups: List[List[Step]], chain: List[Step], manifest: Manifest) -> None:
    """Add ungated steps, to the group before them if they may be held twice."""
    size = sum(manifest.files[manifest.segments[s.segment].file].bytes for s in chain if not _weightless(s))
    if groups and size <= DOUBLED_BYTES:
        groups[-1] = groups[-1] + chain
    elif chain:
        groups.append(chain)


def _writer(chain: Sequence[Step], value: str) -> int:
    """Index of the step that writes the value, -1 where none of these does."""
    return next((i for i, step in enumerate(chain) if value in step.outputs), -1)


def _weightless(step: Step) -> bool:
    """A segment that reads a domain's tensors has no weights of its own."""
    return any(name.startswith(DOMAIN) for name in step.inputs)


def _shapes(manifest: Manifest) -> Dict[str, Shape]:
    size = manifest.preprocessing.size
    shapes: Dict[str, Shape] = {IMAGE: (BATCH, 3, size, size)}
    for step in with_skipped(manifest.plan):
        segment = manifest.segments[step.segment]
        shapes.update(zip(step.outputs, (v.shape for v in segment.outputs)))
        shapes.update((n, v.shape) for n, v in zip(step.inputs, segment.inputs) if n.startswith(DOMAIN))
    return shapes


def _wanted(groups: Sequence[Sequence[Step]], readable: Sequence[str]) -> List[Set[str]]:
    """For each group, the values that somebody wants after it."""
    after: List[Set[str]] = []
    wanted = set(readable) | {LOGITS}
    for group in reversed(groups):
        after.append(set(wanted))
        for step in group:
            wanted |= set(step.inputs) | ({step.gate} if step.gate is not None else set())
    return after[::-1]


def _subgraph(manifest: Manifest, group: Sequence[Step], shapes: Dict[str, Shape], after: Set[str]) -> Subgraph:
    """A group of steps as one subgraph, whose outputs are those of its values that are wanted `after` it."""
    written = [name for step in group for name in step.outputs]
    inputs: List[str] = []
    for step in group:
        inputs += [name for name in step.inputs if name not in written and name not in inputs]
    if len(group) == 1:
        segment = manifest.segments[group[0].segment]
        # Each position of a single step stays: a segment may be shared by steps that read one value twice.
        return Subgraph(segment, group[0].inputs, group[0].outputs, tuple(group))
    outputs = [name for name in written if name in after]
    segment = Segment(
        "+".join(step.segment for step in group),
        "",
        tuple(Value(name, shapes[name]) for name in inputs),
        tuple(Value(name, shapes[name]) for name in outputs),
    )
    return Subgraph(segment, tuple(inputs), tuple(outputs), tuple(group))


def _buffers(calls: Sequence[Call], values: Dict[str, Shape], own: Set[str]) -> Dict[str, int]:
    """A number for each value; a value takes over the number of one that nobody reads any more."""
    last = {name: number for number, call in enumerate(calls) for name in call.subgraph.inputs + call.subgraph.outputs}
    buffers = {IMAGE: 0}
    free: List[int] = []
    for number, call in enumerate(calls):
        for name in call.subgraph.outputs:
            shared = free and name not in own
            buffers[name] = free.pop() if shared else len(set(buffers.values()) | set(free))
        for name in set(call.subgraph.inputs + call.subgraph.outputs) & set(values):
            if last[name] == number and name not in own and name != IMAGE:
                free.append(buffers[name])
    return buffers


def free_sizes(layout: Layout, weights: Mapping[str, Array]) -> Dict[str, int]:
    """What the free dimensions of a layout's values (`classes`) are for a domain with these weights."""
    sizes: Dict[str, int] = {}
    for subgraph in layout.subgraphs:
        for name, value in zip(subgraph.inputs, subgraph.segment.inputs):
            if name.startswith(DOMAIN):
                shape = weights[name[len(DOMAIN) :]].shape
                sizes.update((want, have) for have, want in zip(shape, value.shape) if isinstance(want, str))
    return sizes
