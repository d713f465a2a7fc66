"""Inverted residual blocks whose wide middle is computed a group of channels at a time.

Between its two 1x1 convolutions such a block (Sandler et al., MobileNetV2, 2018) has several times the channels of what
it reads and writes, and no channel of them meets another before the second one, which adds them up:

    y = b + sum over groups g of P_g act(D_g * act(E_g x + e_g) + d_g)

So one group after the other can be expanded, filtered and projected, and its gradient taken back to x. What is alive at
one time in the widest place of the network is a group of channels, which stays in a core's cache.
"""

from typing import Dict, List, NamedTuple, Optional, Set

import numpy as np

from ..onnx_graph.model import Model, Node, unused_name
from ..onnx_graph.operator_shapes import Dims
from ..records import Array
from .shapes import integer, integers, value_shapes

LARGE = 3 << 18  # bytes of a group's activations, of one photo: an operator reads and writes as many, in a core's cache
_BLOCK = 16  # channels that ONNX Runtime's convolutions compute together, at most
_ACTIVATIONS = ("Clip", "Relu")


class _Middle(NamedTuple):
    """Convolutions and activations of one block, in order."""

    expand: Node
    first: Node
    depthwise: Node
    second: Node
    project: Node


def in_channel_groups(model: Model, shapes: Dict[str, Dims], large: Optional[int] = None) -> Model:
    """A copy in which the middle of a block is computed in groups of channels whose activations, of one photo, take
    `large` bytes at most (None: LARGE), as far as whole blocks of 16 channels allow. shapes: of the model's inputs."""
    large = LARGE if large is None else large
    known = value_shapes(model, shapes)
    weights = dict(model.weights)
    readers: Dict[str, List[Node]] = {}
    for node in model.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    kept = {info.name for info in model.outputs}
    taken = model.value_names()
    instead: Dict[str, List[Node]] = {}  # by the output of a block's last convolution, the nodes in its place
    dropped: Set[str] = set()
    for node in model.nodes:
        middle = _middle(node, readers, kept, weights)
        if middle is None:
            continue
        _, channels, height, width = known[middle.expand.outputs[0]]
        groups = _groups(channels, 4 * height * width, large)
        if len(groups) > 1:
            instead[middle.project.outputs[0]] = _in_groups(middle, groups, weights, taken)
            dropped.update(one.outputs[0] for one in middle)
    nodes: List[Node] = []
    for node in model.nodes:
        if node.outputs[0] in instead:
            nodes += instead[node.outputs[0]]
        elif node.outputs[0] not in dropped:
            nodes.append(node)
    return model.replace(nodes, weights)


def _middle(
    expand: Node, readers: Dict[str, List[Node]], kept: Set[str], weights: Dict[str, Array]
) -> Optional[_Middle]:
    """The middle of a block that begins with this node, if one does."""
    found = [expand]
    for _ in range(4):
        name = found[-1].outputs[0]
        following = readers.get(name, [])
        if len(following) != 1 or following[0].inputs[0] != name or name in kept:
            return None
        found.append(following[0])
    middle = _Middle(*found)
    channels = _pointwise(middle.expand, weights)
    fits = (
        channels is not None
        and middle.first.op in _ACTIVATIONS
        and middle.second.op in _ACTIVATIONS
        and middle.depthwise.op == "Conv"
        and weights[middle.depthwise.inputs[1]].shape[:2] == (channels, 1)
        and _pointwise(middle.project, weights) is not None
    )
    return middle if fits else None


def _pointwise(node: Node, weights: Dict[str, Array]) -> Optional[int]:
    """How many channels a 1x1 convolution makes, None for another node."""
    if node.op != "Conv" or node.inputs[1] not in weights or integer(node, "group", 1) != 1:
        return None
    kernel = weights[node.inputs[1]]
    plain = kernel.shape[2:] == (1, 1) and integers(node, "strides", [1, 1]) == [1, 1]
    return kernel.shape[0] if plain and not any(integers(node, "pads", [0] * 4)) else None


def _groups(channels: int, each: int, large: int) -> List[slice]:
    """Groups as equal as whole blocks allow."""
    blocks = -(-channels // _BLOCK)
    most = max(1, large // (_BLOCK * each))  # blocks in a group
    count = -(-blocks // most)
    size = -(-blocks // count) * _BLOCK
    return [slice(start, min(start + size, channels)) for start in range(0, channels, size)]


def _in_groups(middle: _Middle, groups: List[slice], weights: Dict[str, Array], taken: Set[str]) -> List[Node]:
    """The nodes that do the work of these, one group after the other; adds their constants to `weights`."""
    nodes: List[Node] = []
    total = ""
    for number, group in enumerate(groups):
        value = middle.expand.inputs[0]
        for node in middle:
            inputs, attributes = [value] + node.inputs[1:], dict(node.attributes)
            if node is middle.project:
                constants = {inputs[1]: weights[inputs[1]][:, group]}
                inputs = inputs if number == 0 else inputs[:2]  # its bias is added once
            elif node.op == "Conv":
                constants = {name: weights[name][group] for name in inputs[1:]}
            else:
                constants = {}
            for place, name in enumerate(inputs):
                if name in constants:
                    inputs[place] = unused_name("%s/channels_%d" % (name, number), taken)
                    weights[inputs[place]] = np.ascontiguousarray(constants[name])
            if node is middle.depthwise:
                attributes["group"] = group.stop - group.start
            value = unused_name("%s/channels_%d" % (node.outputs[0], number), taken)
            nodes.append(node.replace(inputs, [value], attributes, name=value))
        if total:
            last = number == len(groups) - 1
            name = middle.project.outputs[0] if last else unused_name(middle.project.outputs[0] + "/sum", taken)
            nodes.append(Node("Add", [total, value], [name], name=name))
            value = name
        total = value
    return nodes
