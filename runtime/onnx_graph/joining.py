"""The graphs of several steps put end to end as one, without what nobody reads."""

from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

from ..bundle.bundle import BundleContents
from ..errors import BundleError, quoted
from ..records import Array, Segment, Step
from ..schedule.layout import Subgraph
from .bounds import check_graph
from .model import Info, Model, Node
from .reading import read_model

Names = Dict[str, str]  # value in a step's file -> the same in the graph of several steps


class Piece(NamedTuple):
    """A step, the segment that it runs, and that segment's graph, whose inputs and outputs are in the same order."""

    step: Step
    segment: Segment
    model: Model


def subgraph_model(subgraph: Subgraph, bundle: BundleContents) -> Model:
    """The graph that `subgraph.segment` describes: its inputs and outputs in that order, under those names.

    A single step's graph keeps its own names. In several joined, values between steps are called as in the plan, and
    everything inside a step has the step's number before its name. Every input stays, read or not; nodes and weights
    that no output needs are dropped. Raises BundleError if a file is damaged or is not what the manifest says of it.
    """
    return named_subgraph_model(subgraph, bundle)[0]


def named_subgraph_model(subgraph: Subgraph, bundle: BundleContents) -> Tuple[Model, List[Tuple[Piece, Names]]]:
    """`subgraph_model`, and its pieces, each with what the values of its file are called in it, unless dropped."""
    pieces = [read_piece(step, bundle) for step in subgraph.steps]
    if len(pieces) == 1:
        model = pieces[0].model
        return pruned(model), [(pieces[0], {name: name for name in model.value_names()})]
    names = [names for _, names in _renamed(pieces, subgraph.segment)]
    where = "%s: subgraph %s" % (bundle.path, subgraph.segment.name)
    return pruned(joined(pieces, subgraph.segment, where)), list(zip(pieces, names))


def read_piece(step: Step, bundle: BundleContents) -> Piece:
    """A step with its segment's graph as the bundle has it. Raises BundleError, see `subgraph_model`."""
    segment = bundle.manifest.segments[step.segment]
    return Piece(step, segment, read_segment(segment, bundle))


def read_segment(segment: Segment, bundle: BundleContents) -> Model:
    """The graph of a segment, its inputs and outputs in the segment's order. Raises BundleError unless it computes what
    the manifest says, and no more than that can take."""
    where = "%s: %s" % (bundle.path, segment.file)
    model = read_model(bundle.read(segment.file), where)
    inputs = {info.name: info for info in model.inputs}
    outputs = {info.name: info for info in model.outputs}
    if inputs.keys() != {v.name for v in segment.inputs} or not outputs.keys() >= {v.name for v in segment.outputs}:
        raise BundleError(
            "%s: has inputs %s and outputs %s, segment %s of the manifest others; export the bundle again"
            % (where, quoted(sorted(inputs)), quoted(sorted(outputs)), segment.name)
        )
    model.inputs = [inputs[value.name] for value in segment.inputs]
    model.outputs = [outputs[value.name] for value in segment.outputs]
    check_graph(model, segment, where)
    return model


def _renamed(pieces: Sequence[Piece], ends: Segment) -> List[Tuple[str, Names]]:
    """For each piece: what is put before the names of what is inside it, and what each of its values is called.

    An input that a piece hands on as an output is called as the input.
    """
    plan_names = {name for piece in pieces for name in piece.step.inputs + piece.step.outputs}
    plan_names.update(value.name for value in ends.inputs)
    mark = "step"
    while any(name.startswith(mark) for name in plan_names):
        mark += "_"
    result: List[Tuple[str, Names]] = []
    for number, (step, segment, model) in enumerate(pieces):
        prefix = "%s%d/" % (mark, number)
        names = {name: prefix + name for name in model.value_names()}
        names[""] = ""
        named = set(model.weights)
        for name, value in list(zip(step.inputs, segment.inputs)) + list(zip(step.outputs, segment.outputs)):
            if value.name not in named:
                names[value.name] = name
                named.add(value.name)
        result.append((prefix, names))
    return result


def joined(pieces: Sequence[Piece], ends: Segment, where: str) -> Model:
    """One graph of several steps. ends: its name, and its inputs and outputs, which are called as in the plan.

    Values of the plan that no step writes and that are not among the inputs are read all the same: who joins must
    provide them, as weights. Raises BundleError, which names `where`, if the steps' graphs are of different opsets.
    """
    nodes: List[Node] = []
    weights: Dict[str, Array] = {}
    infos: Dict[str, Info] = {}
    opsets: Dict[str, int] = {}
    for (step, segment, model), (prefix, names) in zip(pieces, _renamed(pieces, ends)):
        copies: List[Node] = []
        for name, info in zip(step.inputs, model.inputs):
            infos.setdefault(name, info)
        for name, value, info in zip(step.outputs, segment.outputs, model.outputs):
            if names[value.name] != name:  # an input or a constant handed on as it is, or an output handed out twice
                copies.append(Node("Identity", [names[value.name]], [name], name=prefix + name))
            infos[name] = info
        for node in model.nodes:
            inputs, outputs = ([names.get(n, prefix + n) for n in ns] for ns in (node.inputs, node.outputs))
            nodes.append(node.replace(inputs, outputs, name=prefix + node.name if node.name else ""))
        nodes += copies
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
