"""The ONNX graph of a subgraph: the graphs of its steps put end to end, without what nobody reads."""

from typing import Callable, Dict, List, Optional, Sequence, Set

from ..bundle.bundle import Bundle
from ..bundle.plan import DOMAIN, IMAGE
from ..errors import BundleError
from ..records import Array, Domain, Segment
from ..schedule.layout import Subgraph, whole_plan
from .onnxfile import Info, Model, Node, read_model

Change = Callable[[str, Model], Model]  # (name of a bundle's file, its graph) -> a graph to use in its stead


def subgraph_model(subgraph: Subgraph, bundle: Bundle, change: Optional[Change] = None) -> Model:
    """The graph that `subgraph.segment` describes: its inputs and outputs in that order, under those names.

    A single step's graph keeps its own names. In several joined, values between steps are called as in the plan, and
    everything inside a step has the step's number before its name. Every input stays, read or not; nodes and weights
    that no output needs are dropped. change: done to each step's graph first; its inputs and outputs must stay.
    Raises BundleError if a file is damaged or is not what the manifest says of it.
    """
    segments = [bundle.manifest.segments[step.segment] for step in subgraph.steps]
    models = [_segment_model(segment, bundle) for segment in segments]
    if change is not None:
        models = [change(segment.file, model) for segment, model in zip(segments, models)]
    if len(models) == 1:
        return _pruned(models[0])
    return _pruned(_joined(subgraph, segments, models, "%s: subgraph %s" % (bundle.path, subgraph.segment.name)))


def whole_model(bundle: Bundle, domain: Domain) -> Model:
    """The network of one domain as an ordinary model: image (batch, 3, S, S) -> logits, its weights constants, all
    blocks on."""
    model = subgraph_model(whole_plan(bundle.manifest), bundle)
    given = {info.name for info in model.inputs}
    model.weights.update((DOMAIN + name, array) for name, array in domain.weights.items() if DOMAIN + name in given)
    model.inputs = [info for info in model.inputs if info.name == IMAGE]
    return model


def _segment_model(segment: Segment, bundle: Bundle) -> Model:
    """A segment's graph, its inputs and outputs in the manifest's order."""
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
    return model


def _joined(subgraph: Subgraph, segments: Sequence[Segment], models: Sequence[Model], where: str) -> Model:
    plan_names = set(subgraph.inputs).union(*(step.outputs for step in subgraph.steps))
    mark = "step"
    while any(name.startswith(mark) for name in plan_names):
        mark += "_"
    nodes: List[Node] = []
    weights: Dict[str, Array] = {}
    infos: Dict[str, Info] = {}
    opsets: Dict[str, int] = {}
    for number, (step, segment, model) in enumerate(zip(subgraph.steps, segments, models)):
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
            title = prefix + node.name if node.name else ""
            nodes.append(Node(node.op, inputs, outputs, node.attributes, node.domain, title))
        for node in copies:
            node.inputs = [names.get(n, prefix + n) for n in node.inputs]
            nodes.append(node)
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
        [infos[value.name]._replace(name=value.name, shape=value.shape) for value in subgraph.segment.inputs],
        [infos[value.name]._replace(name=value.name, shape=value.shape) for value in subgraph.segment.outputs],
        opsets,
        max(model.ir_version for model in models),
        subgraph.segment.name,
    )


def _pruned(model: Model) -> Model:
    """The model without the nodes and weights that none of its outputs needs."""
    needed: Set[str] = {info.name for info in model.outputs}
    kept: List[Node] = []
    for node in reversed(model.nodes):
        if not needed.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(name for name in node.inputs if name)
    model.nodes = kept[::-1]
    model.weights = {name: array for name, array in model.weights.items() if name in needed}
    return model
