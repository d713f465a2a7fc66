"""Gradients of sums, products by constants, and matrix products."""

from ...errors import BundleError
from ...onnx_graph.model import Node
from ..writing import GraphWriter


def add(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dx = dy, for x of y's shape."""
    _require_shape(out, node, place)
    return dy


def subtract(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """y = a - b: da = dy, db = -dy; for an x of y's shape."""
    _require_shape(out, node, place)
    return dy if place == 0 else out.node("Mul", [dy, out.number(-1.0)], "d/" + node.outputs[0])


def multiply(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """y = x c: dx = dy c, for x of y's shape."""
    _require_shape(out, node, place)
    return out.node("Mul", [dy, node.inputs[1 - place]], "d/" + node.outputs[0])


def _require_shape(out: GraphWriter, node: Node, place: int) -> None:
    if out.shapes[node.inputs[place]] != out.shapes[node.outputs[0]]:
        raise BundleError(
            "%s (node %s) repeats an input, whose gradient is not known here: learn with `da3 train`"
            % (node.op, node.outputs[0])
        )


def gemm(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """y = a b^T + c: da = dy b, db = dy^T a, dc = dy, or its sum over rows where c is one row."""
    a, b = node.inputs[:2]
    near = "d/" + node.inputs[place]
    if (
        node.attributes.get("transA")
        or not node.attributes.get("transB")
        or {1}
        != {
            node.attributes.get("alpha", 1),
            node.attributes.get("beta", 1),
            1,
        }
    ):
        raise BundleError("Gemm %s is not a b^T + c: learn with `da3 train`" % node.outputs[0])
    if place == 0:
        return out.node("Gemm", [dy, b], near)
    if place == 1:
        return out.node("Gemm", [dy, a], near, transA=1)
    if len(out.shapes[node.inputs[2]]) == 1:
        return out.node("ReduceSum", [dy, out.integers([0])], near, keepdims=0)
    _require_shape(out, node, 2)
    return dy
