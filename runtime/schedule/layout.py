"""The plan, joined: which segments run as one subgraph, and which buffer each value between subgraphs lives in.

Every boundary between subgraphs costs a call and, on most engines, a change of memory layout, so steps that are never
skipped apart from each other are joined. Blocks that a domain closes are replaced by what is done in their place first,
so they cost no boundary. Where pictures may leave, a subgraph ends behind each exit, and nothing else is decided in a
plan with exits; where none may, such a plan is one subgraph. On a device that works on while the host goes on (a GPU),
what has a dimension of the domain's size, such as a classifier, runs on the host: it is small, and engines that are
built once for all domains need no free dimension then, for whose greatest size they would set memory aside.

How far the plan of a bundle with gates (format 1) is joined depends on the device:

- A synchronous device (a CPU) finishes a subgraph before the host goes on, so what feeds a gated block is joined with
  it, both in the subgraph that runs the block and in the one that skips it. Such segments are then held twice. That
  costs nothing for segments without weights of their own (adaptors: their weights are inputs); others are held twice
  only where they are small.
- A GPU should have computed a gate long before it is read: a subgraph ends behind the step that writes a gate, and a
  gated block begins one, in which the adaptor behind it runs as well, whether the block is run or skipped.
"""

from typing import Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS, closable, with_skipped
from ..errors import DomainError
from ..records import Array, Segment, Shape, Step, Value
from .decisions import check_overrides

DOUBLED_BYTES = 1 << 20  # a file up to this size may be held twice to save a call


class Subgraph(NamedTuple):
    """Steps that run as one. inputs and outputs: the plan's names of its values, positional with those of
    `segment`, the joined graph as seen from outside (`file` is that of a single step, "" for several). host: it runs
    on the host, in numpy, whatever the device is."""

    segment: Segment
    inputs: Tuple[str, ...]
    outputs: Tuple[str, ...]
    steps: Tuple[Step, ...]
    host: bool = False


class Call(NamedTuple):
    """One call of the hot loop: `subgraph`; with a gate, `skip` in its place for images whose gate does not open.
    block: the block that the gate decides. exit: the number of the exit behind the call; `answer` is its logits."""

    subgraph: Subgraph
    gate: Optional[str] = None
    skip: Optional[Subgraph] = None
    block: Optional[int] = None
    exit: Optional[int] = None
    answer: str = LOGITS


class Layout(NamedTuple):
    """Calls in order. values: shape of every value that crosses subgraphs, image and logits among them.
    gates: those values that the host reads between calls to decide by them, gates and the exits' logits. readable:
    those it may read after a run, logits among them. buffers: value -> number of the buffer it lives in; values that
    share one are never needed at once. lasting: whether it will be used again, so that a backend may store what it
    makes of it."""

    calls: Tuple[Call, ...]
    values: Dict[str, Shape]
    gates: Tuple[str, ...]
    readable: Tuple[str, ...]
    buffers: Dict[str, int]
    lasting: bool = True

    @property
    def subgraphs(self) -> List[Subgraph]:
        """Every subgraph once, those that skip among them."""
        return [subgraph for call in self.calls for subgraph in (call.subgraph, call.skip) if subgraph is not None]

    @property
    def device_subgraphs(self) -> List[Subgraph]:
        """Those of `subgraphs` that do not run on the host."""
        return [subgraph for subgraph in self.subgraphs if not subgraph.host]

    @property
    def host_subgraphs(self) -> List[Subgraph]:
        """Those that do."""
        return [subgraph for subgraph in self.subgraphs if subgraph.host]

    @property
    def on_host(self) -> Set[str]:
        """The values that subgraphs on the host write; no device holds them."""
        return {name for subgraph in self.host_subgraphs for name in subgraph.outputs}

    @property
    def fetched(self) -> List[str]:
        """The values that the device writes and the host reads between calls, in no particular order but always the
        same."""
        read = list(self.gates)
        for subgraph in self.host_subgraphs:
            read += [name for name in subgraph.inputs if not name.startswith(DOMAIN)]
        return [name for name in dict.fromkeys(read) if name not in self.on_host]


class _Group(NamedTuple):
    """Steps to be joined. exit: the number of the exit that they end with."""

    steps: List[Step]
    host: bool = False
    exit: Optional[int] = None


def join_plan(
    manifest: Manifest,
    looks_ahead: bool,
    readable: Sequence[str] = (),
    closed: Collection[int] = frozenset(),
    leaves: bool = True,
) -> Layout:
    """The layout of a manifest's plan.

    looks_ahead: for a device that works on while the host goes on. readable: values that can be read after a run.
    closed: the blocks that no picture runs. leaves: whether pictures may leave at exits. Raises DomainError for a value
    that the plan does not have, or a block that cannot be closed.
    """
    check_overrides(dict.fromkeys(closed, False), len(manifest.blocks), closable(manifest.plan))
    shapes = _shapes(manifest)
    unknown = [name for name in readable if name not in shapes or name.startswith(DOMAIN)]
    if unknown:
        known = ", ".join(name for name in shapes if not name.startswith(DOMAIN))
        raise DomainError("no value %r in the plan; it has: %s" % (unknown[0], known))
    groups = _groups(manifest, _without(manifest.plan, closed), looks_ahead, leaves)
    answers = [group.steps[-1].outputs[0] for group in groups if group.exit is not None]
    wanted = _wanted(groups, list(readable) + answers)
    calls: List[Call] = []
    for group, after in zip(groups, wanted):
        gated = [step for step in group.steps if step.gate is not None]
        run = _subgraph(manifest, group.steps, shapes, after)._replace(host=group.host)
        if group.exit is not None:
            calls.append(Call(run, exit=group.exit, answer=group.steps[-1].outputs[0]))
        elif not gated:
            calls.append(Call(run))
        else:
            step = gated[0]
            skipped = [step.skipped if s is step else s for s in group.steps]
            calls.append(Call(run, step.gate, _subgraph(manifest, skipped, shapes, after), step.block))
    gates = tuple([call.gate for call in calls if call.gate is not None] + answers)
    values = {IMAGE: shapes[IMAGE]}
    for call in calls:
        values.update((name, shapes[name]) for name in call.subgraph.outputs)
    results = (LOGITS,) + tuple(name for name in readable if name != LOGITS)
    layout = Layout(tuple(calls), values, gates, results, {})
    # What is copied to the host may still be read when the device is parts ahead.
    return layout._replace(buffers=_buffers(calls, values, set(results).union(gates, layout.fetched)))


def whole_plan(manifest: Manifest, closed: Collection[int] = frozenset()) -> Subgraph:
    """Every step as one subgraph, all blocks on but those that are closed."""
    steps = [step.always for step in _without(manifest.plan, closed)]
    return _subgraph(manifest, steps, _shapes(manifest), {LOGITS})


def left_out(layout: Layout, manifest: Manifest) -> List[int]:
    """Ascending numbers of the blocks that the layout leaves out."""
    wanted = {step.block: step.segment for step in manifest.plan if step.block is not None}
    steps = [step for call in layout.calls for step in call.subgraph.steps]
    return sorted(step.block for step in steps if step.block is not None and step.segment != wanted[step.block])


def _without(plan: Sequence[Step], closed: Collection[int]) -> List[Step]:
    """The steps with what is done in the place of closed blocks. Only those with a gate can be skipped then."""
    chosen = [step.skipped if step.skip is not None and step.block in closed else step for step in plan]
    return [step if step.gate is not None else step.always for step in chosen]


def _groups(manifest: Manifest, plan: Sequence[Step], looks_ahead: bool, leaves: bool) -> List[_Group]:
    sections: List[List[Step]] = [[]]
    for step in plan:
        sections[-1].append(step)
        if step.exit and leaves:
            sections.append([])
    groups: List[_Group] = []
    for number, section in enumerate(sections):
        host = [step for step in section if _on_host(manifest, step)] if looks_ahead else []
        device = [step for step in section if step not in host]
        groups += [_Group(steps) for steps in (_ahead(device) if looks_ahead else _behind(manifest, device))]
        groups += [_Group(host, host=True)] if host else []
        if number < len(sections) - 1:
            groups[-1] = groups[-1]._replace(exit=number)
    return groups


def _on_host(manifest: Manifest, step: Step) -> bool:
    """A step whose values have a free dimension, which is the domain's; so has every step that reads what it writes."""
    segment = manifest.segments[step.segment]
    return any(isinstance(n, str) and n != BATCH for v in segment.inputs + segment.outputs for n in v.shape)


def _ahead(plan: Sequence[Step]) -> List[List[Step]]:
    """A gated step with the weightless steps behind it; a cut behind the step that writes a gate which is read next."""
    groups: List[List[Step]] = []
    chain: List[Step] = []
    for step in plan:
        if step.gate is None:
            chain.append(step)
            continue
        cut = _writer(chain, step.gate) + 1
        joined = _join_behind(groups, chain[:cut] or chain)
        groups += [group for group in (chain[joined : max(joined, cut)], chain[max(joined, cut) :], [step]) if group]
        chain = []
    joined = _join_behind(groups, chain)
    return groups + [chain[joined:]] if chain[joined:] else groups


def _join_behind(groups: List[List[Step]], chain: List[Step]) -> int:
    """Add the weightless steps that a chain begins with to the last group, if that is a gated step's; how many."""
    if not groups or groups[-1][0].gate is None:
        return 0
    count = next((i for i, step in enumerate(chain) if not _weightless(step)), len(chain))
    groups[-1] = groups[-1] + chain[:count]
    return count


def _behind(manifest: Manifest, plan: Sequence[Step]) -> List[List[Step]]:
    """A gated step with the weightless steps before it, and with small ones behind it."""
    groups: List[List[Step]] = []
    chain: List[Step] = []
    for step in plan:
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


def _wanted(groups: Sequence[_Group], readable: Sequence[str]) -> List[Set[str]]:
    """For each group, the values that somebody wants after it."""
    after: List[Set[str]] = []
    wanted = set(readable) | {LOGITS}
    for group in reversed(groups):
        after.append(set(wanted))
        for step in group.steps:
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
