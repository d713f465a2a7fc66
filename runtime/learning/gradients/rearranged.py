"""Gradients of what moves numbers and changes none."""

from ...onnx_graph.model import Node
from ..shapes import integer, integers
from ..writing import GraphWriter


def reshaped(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dy in x's shape."""
    shape = out.shapes[node.inputs[0]]
    return out.node("Reshape", [dy, out.integers(shape)], "d/" + node.inputs[0])


def transpose(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dy, its axes put back."""
    perm = integers(node, "perm", [])
    back = [perm.index(axis) for axis in range(len(perm))]
    return out.node("Transpose", [dy], "d/" + node.inputs[0], perm=back)


def concat(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """The part of dy that is x's."""
    axis = integer(node, "axis", 0)
    ends = [0]
    for name in node.inputs:
        ends.append(ends[-1] + out.shapes[name][axis])
    bounds = [out.integers([n]) for n in (ends[place], ends[place + 1], axis)]
    return out.node("Slice", [dy] + bounds, "d/" + node.inputs[place])
