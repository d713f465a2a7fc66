"""Subgraphs whose borders are in the layout that ONNX Runtime's convolutions compute in.

On most CPUs those kernels want channels in blocks of 8 or 16 (NCHWc). A session puts every input into blocks and every
output back, so a network that is cut into subgraphs changes its layout twice at each border: this costs a fifth of a
ResNet-50's time. Here ONNX Runtime optimises each subgraph, and the two changes are then removed from the borders where
both sides agree, so that blocks are handed from subgraph to subgraph as they are.

A border is found by a mark: an identity convolution is put behind each value that crosses before the subgraph is
optimised, and removed afterwards. Where the result is not recognised (another release, a CPU without blocks), the
subgraph stays an ordinary one.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Set

import numpy as np

from ..onnx_graph.model import Model, Node
from ..onnx_graph.reading import read_model
from ..onnx_graph.writing import write_model
from ..records import Array, Shape

_MARK = "da3_border/"
_DOMAIN = "com.microsoft.nchwc"
_WIDEST_BLOCK = 16


class Blocked(NamedTuple):
    """models: one for each subgraph, to be loaded without further optimising. shapes: of the values that lie in blocks,
    (1, channels rounded up to whole blocks, H, W)."""

    models: List[Model]
    shapes: Dict[str, Shape]


def block_borders(models: Sequence[Model], crossing: Set[str], optimise: Callable[[bytes], bytes]) -> Optional[Blocked]:
    """Subgraphs of one network, for one image, with blocked borders; None where nothing is kept in blocks by it.

    models: an output of one is the input of equal name of another; they are left as they are. crossing: the names of
    values that may lie in blocks. optimise: the bytes of a model -> those of what ONNX Runtime would run.
    Raises BundleError if ONNX Runtime writes a model that cannot be read.
    """
    optimised = [read_model(optimise(write_model(_marked(model, crossing)))) for model in models]
    channels: Dict[str, int] = {}
    refused: Set[str] = set()
    for model in optimised:
        _survey(model, crossing, channels, refused)
    blocked = set(channels) - refused
    # Without a border the marks still have the network's own feature maps in blocks, what adaptors add included.
    if not blocked and not any(_marks(model) for model in optimised):
        return None
    shapes: Dict[str, Shape] = {}
    for model in optimised:
        _strip(model, blocked)
        for infos in (model.inputs, model.outputs):
            for i, info in enumerate(infos):
                if info.name in blocked:
                    sides = tuple(int(n) for n in info.shape[2:] if n is not None)
                    shapes[info.name] = (1, channels[info.name]) + sides
                    infos[i] = info._replace(shape=shapes[info.name])
    return Blocked(optimised, shapes)


def _marked(model: Model, crossing: Set[str]) -> Model:
    """A copy with marks behind the inputs that cross, and behind each node that makes feature maps of rows, as adaptors
    do at their end."""
    nodes: List[Node] = []
    weights = dict(model.weights)
    names: Dict[str, str] = {}
    for info in model.inputs:
        if info.name in crossing and any(info.name in node.inputs for node in model.nodes):
            names[info.name] = _MARK + info.name
            nodes.append(_mark(weights, info.name, names[info.name], int(info.shape[1] or 0)))
    for node in model.nodes:
        inputs = [names.get(name, name) for name in node.inputs]
        nodes.append(node.replace(inputs))
        channels = _channels(model, node)
        if channels is not None:
            inner, outer = _MARK + "from/" + node.outputs[0], node.outputs[0]
            nodes[-1].outputs[0] = inner
            names[outer] = _MARK + outer
            nodes.append(_mark(weights, inner, names[outer], channels))
    outputs = {name for node in nodes for name in node.outputs}
    # An output that has a mark behind it keeps its name for the other models.
    nodes += [Node("Identity", [names[i.name]], [i.name]) for i in model.outputs if i.name not in outputs]
    return model.replace(nodes, weights)


def _channels(model: Model, node: Node) -> Optional[int]:
    """Channels of the feature maps that a node makes of rows; None for any other node."""
    if node.op != "Transpose" or node.attributes.get("perm") != [0, 3, 1, 2]:
        return None
    shapes = [
        model.weights.get(before.inputs[1])
        for before in model.nodes
        if before.op == "Reshape" and node.inputs[0] in before.outputs
    ]
    return int(shapes[0][3]) if shapes and shapes[0] is not None and shapes[0].shape == (4,) else None


def _mark(weights: Dict[str, Array], x: str, y: str, channels: int) -> Node:
    """y = x as a 1x1 convolution. It is depthwise where the channels fill whole blocks: ONNX Runtime puts no other
    depthwise convolution into blocks."""
    weight = y + "/weight"
    if channels % _WIDEST_BLOCK == 0:
        weights[weight] = np.ones((channels, 1, 1, 1), np.float32)
        groups = channels
    else:
        weights[weight] = np.eye(channels, dtype=np.float32).reshape(channels, channels, 1, 1)
        groups = 1
    return Node("Conv", [x, weight], [y], {"kernel_shape": [1, 1], "group": groups}, name=y)


def _marks(model: Model) -> Dict[str, Node]:
    """Each mark that can be removed, by the value it reads; other marks stay and do no harm.

    ONNX Runtime gives a convolution that it puts into blocks the name of what the convolution writes. A mark with fewer
    channels than a block has reads a value in the ordinary layout and cannot be removed.
    """
    reordered = {node.outputs[0] for node in model.nodes if _is(node, "ReorderInput")}
    return {
        node.inputs[0]: node
        for node in model.nodes
        if _is(node, "Conv")
        and node.name.startswith(_MARK)
        and node.inputs[0] in reordered
        and _without(node) is not None
    }


def _plain(mark: Node) -> bool:
    return len(mark.inputs) == 2 and not mark.attributes.get("activation")


def _without(mark: Node) -> Optional[List[Node]]:
    """What ONNX Runtime fused into a mark, as nodes of their own: a sum, an activation, both or none; None where it
    fused something else."""
    x, y, activation = mark.inputs[0], mark.outputs[0], mark.attributes.get("activation", "")
    bias, added = (mark.inputs[2:] + ["", ""])[:2]
    if bias or activation not in ("", "Relu"):
        return None
    nodes: List[Node] = []
    if added:
        nodes.append(Node("Add", [x, added], [y + "/sum" if activation else y]))
    if activation:
        nodes.append(Node("Relu", [nodes[-1].outputs[0] if nodes else x], [y]))
    return nodes


def _survey(model: Model, crossing: Set[str], channels: Dict[str, int], refused: Set[str]) -> None:
    """Add to `channels` how many channels each value has in blocks, and to `refused` the values that this model cannot
    take or give in blocks."""
    marks = _marks(model)
    readers: Dict[str, List[Node]] = {}
    writers = {name: node for node in model.nodes for name in node.outputs}
    for node in model.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    for info in model.inputs:
        if info.name not in crossing or info.name not in readers:
            continue
        first = readers[info.name][0]
        mark = marks.get(first.outputs[0]) if _is(first, "ReorderInput") else None
        if len(readers[info.name]) == 1 and mark is not None and _plain(mark) and len(readers[first.outputs[0]]) == 1:
            channels[info.name] = model.weights[mark.inputs[1]].shape[0]
        else:
            refused.add(info.name)
    for info in model.outputs:
        if info.name in crossing and (info.name in readers or not _is(writers[info.name], "ReorderOutput")):
            refused.add(info.name)


def _is(node: Node, op: str) -> bool:
    return node.op == op and node.domain == _DOMAIN


def _strip(model: Model, blocked: Set[str]) -> None:
    """Remove the marks, and the changes of layout at the values that are to stay in blocks."""
    inputs, outputs = ({info.name for info in infos} & blocked for infos in (model.inputs, model.outputs))
    marks = {node.outputs[0]: node for node in _marks(model).values()}
    same = {name: node.inputs[0] for name, node in marks.items() if _plain(node)}
    same.update((n.outputs[0], n.inputs[0]) for n in model.nodes if _is(n, "ReorderInput") and n.inputs[0] in inputs)
    ends = {n.inputs[0]: n.outputs[0] for n in model.nodes if _is(n, "ReorderOutput") and n.outputs[0] in outputs}

    def name_of(name: str) -> str:
        while name in same:
            name = same[name]
        return ends.get(name, name)

    nodes: List[Node] = []
    for node in model.nodes:
        if node.outputs[0] in same or (_is(node, "ReorderOutput") and node.outputs[0] in outputs):
            continue
        for one in (_without(node) or []) if node.outputs[0] in marks else [node]:
            one.inputs = [name_of(name) for name in one.inputs]
            one.outputs = [name_of(name) for name in one.outputs]
            nodes.append(one)
    used = {name for node in nodes for name in node.inputs}
    model.nodes = nodes
    model.weights = {name: array for name, array in model.weights.items() if name in used}
