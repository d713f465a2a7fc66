"""The graphs of several steps put end to end as one, without what nobody reads."""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Set

from ..bundle.bundle import BundleContents
from ..errors import BundleError
from ..records import Array, Segment, Step
from ..schedule.layout import Subgraph
from .model import Info, Model, Node
from .reading import read_model

Change = Callable[[str, Model], Model]  # (name of a bundle's file, its graph) -> a graph to use in its stead


class Piece(NamedTuple):
    """A step, the segment that it runs, and that segment's graph, whose inputs and outputs are in the same order."""

    step: Step
    segment: Segment
    model: Model


def subgraph_model(subgraph: Subgraph, bundle: BundleContents, change: Optional[Change] = None) -> Model:
    """The graph that `subgraph.segment` describes: its inputs and outputs in that order, under those names.

    A single step's graph keeps its own names. In several joined, values between steps are called as in the plan, and
    everything inside a step has the step's number before its name. Every input stays, read or not; nodes and weights
    that no output needs are dropped. change: done to each step's graph first; its inputs and outputs must stay.
    Raises BundleError if a file is damaged or is not what the manifest says of it.
    """
    pieces = [read_piece(step, bundle, change) for step in subgraph.steps]
    if len(pieces) == 1:
        return pruned(pieces[0].model)
    return pruned(joined(pieces, subgraph.segment, "%s: subgraph %s" % (bundle.path, subgraph.segment.name)))


def read_piece(step: Step, bundle: BundleContents, change: Optional[Change] = None) -> Piece:
    """A step with its segment's graph as the bundle has it. Raises BundleError, see `subgraph_model`."""
    segment = bundle.manifest.segments[step.segment]
    where = "%s: %s" % (bundle.path, segment.file)
    model = read_model(bundle.read(segment.file), where)
    inputs = {info.name: info for info in model.inputs}
    outputs = {info.name: info for info in model.outputs}
    if inputs.keys() != {v.name for v in segment.inputs} or not outputs.keys() >= {v.name for v in segment.outputs}:
        raise BundleError(
            "%s: has inputs %s and outputs %s, segment %s of the manifest others; export the bundle again"
            % (where, sorted(inputs), sorted(outputs), segment.name)
        )
    model.inputs = [inputs[value.name] for value in segment.inputs]
    model.outputs = [outputs[value.name] for value in segment.outputs]
    return Piece(step, segment, model if change is None else change(segment.file, model))


def joined(pieces: Sequence[Piece], ends: Segment, where: str) -> Model:
    """One graph of several steps. ends: its name, and its inputs and outputs, which are called as in the plan.

    Values of the plan that no step writes and that are not among the inputs are read all the same: who joins must
    provide them, as weights. Raises BundleError, which names `where`, if the steps' graphs are of different opsets.
    """
    plan_names = {name for piece in pieces for name in piece.step.inputs + piece.step.outputs}
    plan_names.update(value.name for value in ends.inputs)
    mark = "step"
    while any(name.startswith(mark) for name in plan_names):
        mark += "_"
    nodes: List[Node] = []
    weights: Dict[str, Array] = {}
    infos: Dict[str, Info] = {}
    opsets: Dict[str, int] = {}
    for number, (step, segment, model) in enumerate(pieces):
        prefix = "%s%d/" % (mark, number)
        names = {"": ""}
        copies: List[Node] = []
        for name, value, info in zip(step.inputs, segment.inputs, model.inputs):
            names[value.name] = name
            infos.setdefault(name, info)
        for name, value, info in zip(step.outputs, segment.outputs, model.outputs):
            if value.name in names or value.name in model.weights:  # an input or a constant handed on as it is
                copies.append(Node("Identity", [value.name], [name], name=prefix + name))
            else:
                names[value.name] = name
            infos[name] = info
        for node in model.nodes:
            inputs, outputs = ([names.get(n, prefix + n) for n in ns] for ns in (node.inputs, node.outputs))
            nodes.append(node.replace(inputs, outputs, name=prefix + node.name if node.name else ""))
        nodes += [copy.replace([names.get(n, prefix + n) for n in copy.inputs]) for copy in copies]
        weights.update((prefix + name, array) for name, array in model.weights.items())
        for domain, version in model.opsets.items():
            if opsets.setdefault(domain, version) != version:
                raise BundleError(
                    "%s: its files use opsets %d and %d of domain %r; export the bundle again"
                    % (where, opsets[domain], version, domain)
                )
    return Model(
        nodes,
        weights,
        [infos[value.name]._replace(name=value.name, shape=value.shape) for value in ends.inputs],
        [infos[value.name]._replace(name=value.name, shape=value.shape) for value in ends.outputs],
        opsets,
        ir_version=max(piece.model.ir_version for piece in pieces),
        name=ends.name,
    )


def pruned(model: Model) -> Model:
    """The model without the nodes and weights that none of its outputs needs."""
    needed: Set[str] = {info.name for info in model.outputs}
    nodes: List[Node] = []
    for node in reversed(model.nodes):
        if not needed.isdisjoint(node.outputs):
            nodes.append(node)
            needed.update(name for name in node.inputs if name)
    weights = {name: array for name, array in model.weights.items() if name in needed}
    return model.replace(nodes[::-1], weights)
