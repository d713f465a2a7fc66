"""Shapes of the values of a graph, as far as gradients need them: for the operators that bundles are written with.

A dimension is a number, or ANY where it grows with the batch. That is always the first: batches are never split.
"""

from typing import Callable, Dict, List, Optional, Tuple

from ..errors import BundleError
from ..onnx_graph.model import Node
from ..records import Array

ANY = -1

Dims = Tuple[int, ...]


def output_shape(node: Node, shapes: Dict[str, Dims], weights: Dict[str, Array]) -> Dims:
    """The shape of a node's output, from those of its inputs. Raises BundleError for an operator that is not known."""
    rule = _SHAPES.get(node.op)
    if rule is None or node.domain:
        raise BundleError(
            "learning knows no operator %s (node %s); learn with `da3 train`" % (node.op, node.outputs[0])
        )
    constants = [weights.get(name) for name in node.inputs]
    return rule(node, [shapes.get(name, ()) for name in node.inputs], constants)


def integers(node: Node, name: str, default: List[int]) -> List[int]:
    """An attribute that is a list of integers."""
    return [int(n) for n in node.attributes.get(name, default)]  # type: ignore[union-attr]


def integer(node: Node, name: str, default: int) -> int:
    """An attribute that is an integer."""
    return int(node.attributes.get(name, default))  # type: ignore[arg-type]


Inputs = List[Dims]
Constants = List[Optional[Array]]


def _same(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    return inputs[0]


def _broadcast(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    rank = max(map(len, inputs))
    padded = [(1,) * (rank - len(dims)) + dims for dims in inputs]
    return tuple(next((n for n in column if n != 1), 1) for column in zip(*padded))


def _conv(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    return (inputs[0][0], inputs[1][0]) + _slid(node, inputs[0], inputs[1][2:])


def _pool(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    return inputs[0][:2] + _slid(node, inputs[0], tuple(integers(node, "kernel_shape", [])))


def _slid(node: Node, x: Dims, kernel: Dims) -> Dims:
    strides = integers(node, "strides", [1, 1])
    pads = integers(node, "pads", [0, 0, 0, 0])
    return tuple((x[2 + i] + pads[i] + pads[2 + i] - kernel[i]) // strides[i] + 1 for i in (0, 1))


def _resize(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    scales = constants[2]
    assert scales is not None
    return inputs[0][:2] + tuple(int(n * factor) for n, factor in zip(inputs[0][2:], scales[2:]))


def _gemm(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    rows, columns = (1, 0) if node.attributes.get("transA") else (0, 1)
    return (inputs[0][rows], inputs[1][0 if node.attributes.get("transB") else columns])


def _reshape(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    wanted = constants[1]
    assert wanted is not None
    return tuple(int(n) for n in wanted)


def _transpose(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    return tuple(inputs[0][axis] for axis in integers(node, "perm", []))


def _flatten(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    count = 1
    for n in inputs[0][1:]:
        count *= n
    return (inputs[0][0], count)


def _concat(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    axis = integer(node, "axis", 0)
    return inputs[0][:axis] + (sum(dims[axis] for dims in inputs),) + inputs[0][axis + 1 :]


def _reduced(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    axes = integers(node, "axes", list(range(len(inputs[0]))))
    kept = [1] if node.attributes.get("keepdims", 1) else []
    dims: List[int] = []
    for axis, n in enumerate(inputs[0]):
        dims += kept if axis in axes else [n]
    return tuple(dims)


def _global_pool(node: Node, inputs: Inputs, constants: Constants) -> Dims:
    return inputs[0][:2] + (1, 1)


_SHAPES: Dict[str, Callable[[Node, Inputs, Constants], Dims]] = {
    "Add": _broadcast,
    "AveragePool": _pool,
    "Clip": _same,
    "Concat": _concat,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "Identity": _same,
    "MaxPool": _pool,
    "Mul": _broadcast,
    "ReduceMax": _reduced,
    "ReduceMean": _reduced,
    "Relu": _same,
    "Reshape": _reshape,
    "Resize": _resize,
    "Sub": _broadcast,
    "Transpose": _transpose,
}
