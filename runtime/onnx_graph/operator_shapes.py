"""The shape that each operator gives, and what it needs for that: the operators that bundles are written with.

Every rule is that of https://onnx.ai/onnx/operators in opset 13, for shapes that are all numbers. An engine trusts a
graph: for strides of 0 it divides by 0, and a Resize by a billion takes memory. So what an operator cannot be asked for
is refused here, before any engine has seen it.
"""

import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..records import Array
from .model import DTYPES, Node

Dims = Tuple[int, ...]
_LARGEST_STEP = 1 << 16  # of strides, dilations, kernels and pads


class Refused(Exception):
    """An operator cannot be computed like this; the message says what is wrong, without the place."""


class Operands(NamedTuple):
    """What a node reads. shapes: of each input, None where it is left out. constants: the values of those that no
    image and no domain changes, None for others."""

    shapes: List[Optional[Dims]]
    constants: List[Optional[Array]]

    def shape(self, index: int) -> Dims:
        """That of an input that has to be there."""
        found = self.shapes[index] if index < len(self.shapes) else None
        if found is None:
            raise Refused("input %d is missing" % index)
        return found

    def has(self, index: int) -> bool:
        return index < len(self.shapes) and self.shapes[index] is not None

    def numbers(self, index: int) -> List[float]:
        """The values of a short constant."""
        found = self.constants[index] if index < len(self.constants) else None
        if found is None or found.ndim != 1 or found.size > 32 or found.dtype.kind not in "iuf":
            raise Refused("input %d is no short constant" % index)
        numbers: List[float] = found.tolist()
        if not all(math.isfinite(n) for n in numbers):
            raise Refused("input %d is not finite" % index)
        return numbers

    def integers(self, index: int) -> List[int]:
        return [int(n) for n in self.numbers(index)]


Rule = Callable[[Node, Operands], Dims]


def output_shape(node: Node, operands: Operands) -> Dims:
    """The shape of a node's one output. Raises Refused for an operator that no bundle is written with, and for one that
    cannot take its inputs or attributes."""
    rule = _RULES.get(node.op)
    if rule is None or node.domain:
        raise Refused("bundles are not written with this operator")
    if len(node.outputs) != 1 or not node.outputs[0]:
        raise Refused("it has %d outputs" % len(node.outputs))
    most = _MOST_INPUTS.get(node.op, 1)
    if len(node.inputs) > most:
        raise Refused("it has %d inputs, and takes %d" % (len(node.inputs), most))
    return rule(node, operands)


def work(node: Node, operands: Operands, made: Dims) -> int:
    """Multiplications and additions that a node does, roughly."""
    count = product(made)
    if node.op == "Conv":
        return 2 * count * product(operands.shape(1)[1:])
    if node.op in ("Gemm", "MatMul"):
        inner = operands.shape(0)
        return 2 * count * inner[0 if node.attributes.get("transA") else -1]
    if node.op in ("AveragePool", "MaxPool"):
        return count * product(_integers(node, "kernel_shape", []))
    return max([count] + [product(shape) for shape in operands.shapes if shape is not None])


def product(dims: Sequence[int]) -> int:
    count = 1
    for n in dims:
        count *= n
    return count


# -- attributes


def _integer(node: Node, name: str, default: int) -> int:
    value = node.attributes.get(name, default)
    if not isinstance(value, int):
        raise Refused("%s is no integer" % name)
    return value


def _integers(node: Node, name: str, default: List[int]) -> List[int]:
    value = node.attributes.get(name, default)
    if not isinstance(value, list) or not all(isinstance(n, int) for n in value):
        raise Refused("%s is no list of integers" % name)
    return [int(n) for n in value]


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise Refused("axis %d of %d dimensions" % (axis, rank))
    return axis % rank


def _axes(node: Node, operands: Operands, rank: int) -> List[int]:
    """Of an attribute or, in later opsets, of an input."""
    given = operands.integers(1) if operands.has(1) else _integers(node, "axes", [])
    axes = [_axis(n, rank) for n in given]
    if len(set(axes)) != len(axes):
        raise Refused("an axis twice")
    return axes


# -- rules


def _same(node: Node, operands: Operands) -> Dims:
    return operands.shape(0)


def _along(node: Node, operands: Operands) -> Dims:
    """The same, along one axis."""
    shape = operands.shape(0)
    _axis(_integer(node, "axis", -1), len(shape))
    return shape


def _cast(node: Node, operands: Operands) -> Dims:
    if _integer(node, "to", 0) not in DTYPES:
        raise Refused("to %d" % _integer(node, "to", 0))
    return operands.shape(0)


def _clip(node: Node, operands: Operands) -> Dims:
    for index in (1, 2):
        if operands.has(index) and product(operands.shape(index)) != 1:
            raise Refused("a bound of shape %s" % (operands.shape(index),))
    return operands.shape(0)


def _broadcast(node: Node, operands: Operands) -> Dims:
    dims: List[int] = []
    shapes = [operands.shape(i) for i in range(len(operands.shapes))]
    rank = max(len(shape) for shape in shapes)
    for column in zip(*[(1,) * (rank - len(shape)) + shape for shape in shapes]):
        size = next((n for n in column if n != 1), 1)
        if any(n not in (1, size) for n in column):
            raise Refused("shapes %s" % " and ".join(map(str, shapes)))
        dims.append(size)
    return tuple(dims)


def _binary(node: Node, operands: Operands) -> Dims:
    operands.shape(2 if node.op == "Where" else 1)  # it is there
    return _broadcast(node, operands)


def _slid(node: Node, sides: Dims, kernel: Sequence[int], ceil: bool = False) -> Dims:
    """How often a window fits along each axis."""
    rank = len(sides)
    if rank != 2 or len(kernel) != 2:
        raise Refused("a kernel of shape %s over %d axes" % (tuple(kernel), rank))
    strides, gaps = _integers(node, "strides", [1, 1]), _integers(node, "dilations", [1, 1])
    pads = _integers(node, "pads", [0, 0, 0, 0])
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise Refused("auto_pad")
    steps = list(kernel) + strides + gaps
    if len(strides) != 2 or len(gaps) != 2 or min(steps) < 1 or max(steps + pads) > _LARGEST_STEP:
        raise Refused("kernel %s, strides %s, dilations %s" % (list(kernel), strides, gaps))
    if len(pads) != 4 or min(pads) < 0:
        raise Refused("pads %s" % pads)
    dims: List[int] = []
    for i in (0, 1):
        seen = (kernel[i] - 1) * gaps[i] + 1
        rest = sides[i] + pads[i] + pads[2 + i] - seen
        if rest < 0:
            raise Refused("a kernel of %d over %d" % (seen, sides[i]))
        # An engine sets aside what is padded, for each row at least.
        if max(pads[i], pads[2 + i]) >= seen:
            raise Refused("pads %s of a kernel of %d" % (pads, seen))
        dims.append((rest + (strides[i] - 1 if ceil else 0)) // strides[i] + 1)
    return tuple(dims)


def _conv(node: Node, operands: Operands) -> Dims:
    x, weight = operands.shape(0), operands.shape(1)
    group = _integer(node, "group", 1)
    if len(x) != 4 or len(weight) != 4 or group < 1 or weight[1] * group != x[1] or weight[0] % group or not weight[0]:
        raise Refused("kernels %s over %s in %d groups" % (weight, x, group))
    if _integers(node, "kernel_shape", list(weight[2:])) != list(weight[2:]):
        raise Refused("kernel_shape is another than that of the kernels, %s" % (weight[2:],))
    if operands.has(2) and operands.shape(2) != weight[:1]:
        raise Refused("a bias of shape %s for %d kernels" % (operands.shape(2), weight[0]))
    return (x[0], weight[0]) + _slid(node, x[2:], weight[2:])


def _pool(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    if len(x) != 4 or _integer(node, "storage_order", 0):
        raise Refused("an input of shape %s" % (x,))
    return x[:2] + _slid(node, x[2:], _integers(node, "kernel_shape", []), bool(_integer(node, "ceil_mode", 0)))


def _global_pool(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    if len(x) != 4:
        raise Refused("an input of shape %s" % (x,))
    return x[:2] + (1, 1)


def _resize(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    factors = [] if operands.has(3) else operands.numbers(2)
    dims = [int(n * factor) for n, factor in zip(x, factors)] if factors else operands.integers(3)
    if len(x) < 2 or len(dims) != len(x) or min(dims) < 1 or list(x[:2]) != dims[:2]:
        raise Refused("%s to %s" % (x, tuple(dims)))
    return tuple(dims)


def _gemm(node: Node, operands: Operands) -> Dims:
    a, b = operands.shape(0), operands.shape(1)
    if len(a) != 2 or len(b) != 2:
        raise Refused("shapes %s and %s" % (a, b))
    a = a[::-1] if _integer(node, "transA", 0) else a
    b = b[::-1] if _integer(node, "transB", 0) else b
    return _product(a, b, operands.shape(2) if operands.has(2) else ())


def _product(a: Dims, b: Dims, added: Dims) -> Dims:
    if a[1] != b[0]:
        raise Refused("shapes %s and %s" % (a, b))
    made = (a[0], b[1])
    if len(added) > 2 or any(n not in (1, m) for n, m in zip(added[::-1], made[::-1])):
        raise Refused("%s added to %s" % (added, made))
    return made


def _matmul(node: Node, operands: Operands) -> Dims:
    a, b = operands.shape(0), operands.shape(1)
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise Refused("shapes %s and %s" % (a, b))
    outer = _broadcast(node, Operands([a[:-2], b[:-2]], [None, None]))
    return outer + (a[-2], b[-1])


def _reshape(node: Node, operands: Operands) -> Dims:
    x, wanted = operands.shape(0), operands.integers(1)
    if min(wanted, default=0) < -1 or wanted.count(-1) > 1 or _integer(node, "allowzero", 0):
        raise Refused("to %s" % wanted)
    dims = [x[i] if n == 0 and i < len(x) else n for i, n in enumerate(wanted)]
    known = product([n for n in dims if n != -1])
    if -1 in dims and known and product(x) % known == 0:
        dims[dims.index(-1)] = product(x) // known
    if -1 in dims or product(dims) != product(x):
        raise Refused("%s to %s" % (x, wanted))
    return tuple(dims)


def _transpose(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    perm = _integers(node, "perm", list(range(len(x)))[::-1])
    if sorted(perm) != list(range(len(x))):
        raise Refused("perm %s of %d dimensions" % (perm, len(x)))
    return tuple(x[axis] for axis in perm)


def _flatten(node: Node, operands: Operands) -> Dims:
    x, axis = operands.shape(0), _integer(node, "axis", 1)
    if not -len(x) <= axis <= len(x):
        raise Refused("axis %d of %d dimensions" % (axis, len(x)))
    axis += len(x) if axis < 0 else 0
    return (product(x[:axis]), product(x[axis:]))


def _concat(node: Node, operands: Operands) -> Dims:
    shapes = [operands.shape(i) for i in range(len(operands.shapes))]
    axis = _axis(_integer(node, "axis", 0), len(shapes[0]))
    if len({shape[:axis] + shape[axis + 1 :] for shape in shapes}) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise Refused("shapes %s" % " and ".join(map(str, shapes)))
    return shapes[0][:axis] + (sum(shape[axis] for shape in shapes),) + shapes[0][axis + 1 :]


def _reduced(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    axes = _axes(node, operands, len(x)) or list(range(len(x)))
    if node.op in ("ReduceMax", "ReduceMean") and not all(x[axis] for axis in axes):
        raise Refused("nothing to reduce in %s" % (x,))
    kept = [1] if _integer(node, "keepdims", 1) else []
    dims: List[int] = []
    for axis, n in enumerate(x):
        dims += kept if axis in axes else [n]
    return tuple(dims)


def _arg_max(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    axis = _axis(_integer(node, "axis", 0), len(x))
    return x[:axis] + ((1,) if _integer(node, "keepdims", 1) else ()) + x[axis + 1 :]


def _squeeze(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    axes = _axes(node, operands, len(x))
    if any(x[axis] != 1 for axis in axes):
        raise Refused("axes %s of %s" % (axes, x))
    return tuple(n for axis, n in enumerate(x) if (axis not in axes if axes else n != 1))


def _unsqueeze(node: Node, operands: Operands) -> Dims:
    x = operands.shape(0)
    count = len(operands.integers(1)) if operands.has(1) else len(_integers(node, "axes", []))
    axes = _axes(node, operands, len(x) + count)
    rest = iter(x)
    return tuple(1 if axis in axes else next(rest) for axis in range(len(x) + count))


def _slice(node: Node, operands: Operands) -> Dims:
    dims = list(operands.shape(0))
    starts, ends = operands.integers(1), operands.integers(2)
    axes = operands.integers(3) if operands.has(3) else list(range(len(starts)))
    steps = operands.integers(4) if operands.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Refused("starts %s, ends %s, axes %s, steps %s" % (starts, ends, axes, steps))
    for start, end, axis, step in zip(starts, ends, axes, steps):
        axis = _axis(axis, len(dims))
        dims[axis] = len(range(dims[axis])[slice(start, end, step)])
    return tuple(dims)


def _constant(node: Node, operands: Operands) -> Dims:
    value: Any = node.attributes.get("value")
    if not isinstance(value, np.ndarray):
        raise Refused("it has no value")
    return tuple(int(n) for n in value.shape)


_RULES: Dict[str, Rule] = {
    "ArgMax": _arg_max,
    "AveragePool": _pool,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "DequantizeLinear": _same,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool,
    "LogSoftmax": _along,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "QuantizeLinear": _same,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _along,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
_MOST_INPUTS = {"Concat": 1024, "Constant": 0, "Where": 3, "Slice": 5, "Resize": 4}
_MOST_INPUTS.update((op, 3) for op in ("Clip", "Conv", "DequantizeLinear", "Gemm", "QuantizeLinear"))
_MOST_INPUTS.update((op, 2) for op in ("Add", "And", "Equal", "Greater", "Less", "MatMul", "Mul", "Sub"))
_MOST_INPUTS.update((op, 2) for op in ("ReduceSum", "Reshape", "Squeeze", "Unsqueeze"))
_RULES.update((op, _same) for op in ("Abs", "Exp", "HardSigmoid", "HardSwish", "Identity", "Neg", "Relu", "Sigmoid"))
_RULES.update((op, _same) for op in ("Sqrt", "Tanh"))
_RULES.update((op, _reduced) for op in ("ReduceMax", "ReduceMean", "ReduceSum"))
_RULES.update((op, _binary) for op in ("Add", "And", "Equal", "Greater", "Less", "Mul", "Sub", "Where"))
