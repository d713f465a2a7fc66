"""Gradients of the mean and of the maximum over one axis that is left out of the result."""

import numpy as np

from ...errors import BundleError
from ...onnx_graph.model import Node
from ..shapes import integers
from ..writing import GraphWriter

_FLOAT = 1


def reduce_mean(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dx = dy / n for each of the n that the mean is of."""
    axis = _axis(node)
    count = out.shapes[node.inputs[0]][axis]
    near = "d/" + node.inputs[0]
    shape = [1] * len(out.shapes[node.inputs[0]])
    shape[axis] = count
    shares = out.constant("mean_of/%d" % count, np.full(shape, 1.0 / count, np.float32))
    return out.node("Mul", [_kept(out, node, dy), shares], near)  # repeats dy


def reduce_max(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dx = dy in the place of the maximum; of equal ones, in the first."""
    x = node.inputs[0]
    axis = _axis(node)
    shape = [1] * len(out.shapes[x])
    shape[axis] = out.shapes[x][axis]
    near = "d/" + x
    first = out.node("ArgMax", [x], near, axis=axis, keepdims=1)
    places = out.constant("places/%d" % shape[axis], np.arange(shape[axis], dtype=np.int64).reshape(shape))
    mask = out.node("Cast", [out.node("Equal", [first, places], near)], near, to=_FLOAT)
    return out.node("Mul", [_kept(out, node, dy), mask], near)


def _kept(out: GraphWriter, node: Node, dy: str) -> str:
    """dy with the axis that was left out, of length 1."""
    shape = list(out.shapes[node.inputs[0]])
    shape[_axis(node)] = 1
    return out.node("Reshape", [dy, out.integers(shape)], "d/" + node.outputs[0])


def _axis(node: Node) -> int:
    axes = integers(node, "axes", [])
    if len(axes) != 1 or axes[0] < 1:
        raise BundleError("%s %s is not over one axis: learn with `da3 train`" % (node.op, node.outputs[0]))
    return int(axes[0])
