"""ONNX operators in numpy, as opset 13 defines them: those that bundles are written with, gradients, and quantisation.

Each is a function of its attributes and its inputs, and gives its one output. An input is an array, None where an
optional one is omitted. An operator raises Unsupported for what it does not know, and never ignores it.
"""

from functools import partial
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..onnx_graph.model import DTYPES
from ..records import Array

Attributes = Dict[str, Any]


class Operator(NamedTuple):
    """attributes: the names that `run` understands."""

    run: Callable[..., Array]
    attributes: Tuple[str, ...] = ()


class Unsupported(Exception):
    """The operator exists, but not in this way."""


# -- sliding windows


def conv(attributes: Attributes, x: Array, weight: Array, bias: Optional[Array] = None) -> Array:
    """x (B, C, H, W), weight (O, C / group, kh, kw) -> (B, O, H', W')."""
    group = attributes.get("group", 1)
    if weight.shape[1] * group != x.shape[1] or weight.shape[0] % group:
        raise Unsupported("weight %s, input %s, group %d" % (weight.shape, x.shape, group))
    windows = _windows(attributes, x, weight.shape[2:], 0)
    y = _depthwise(windows, weight) if weight.shape[:2] == (group, 1) else _dense(windows, weight, group)
    if bias is not None:
        y += bias[:, None, None]
    return y


def _depthwise(windows: Array, weight: Array) -> Array:
    """windows (B, C, H', W', kh, kw), weight (C, 1, kh, kw) -> (B, C, H', W')."""
    y = np.zeros(windows.shape[:4], windows.dtype)
    for cells, factors in zip(_cells(windows), _cells(weight)):
        y += cells * factors[..., None]  # (C, 1, 1)
    return y


def _dense(windows: Array, weight: Array, group: int) -> Array:
    """windows (B, C, H', W', kh, kw), weight (O, C / group, kh, kw) -> (B, O, H', W').

    There is one matrix product for each image and group, so an image's numbers do not depend on the rest of its batch,
    and no more than one image is unrolled at a time.
    """
    batch, channels, height, width, kh, kw = windows.shape
    cin, cout = channels // group, weight.shape[0] // group
    y = np.empty((batch, weight.shape[0], height * width), windows.dtype)
    for b in range(batch):
        for g in range(group):
            patches = windows[b, g * cin : (g + 1) * cin].transpose(0, 3, 4, 1, 2)  # (C, kh, kw, H', W')
            rows = slice(g * cout, (g + 1) * cout)
            y[b, rows] = np.dot(weight[rows].reshape(cout, -1), patches.reshape(cin * kh * kw, height * width))
    return y.reshape(batch, weight.shape[0], height, width)


def max_pool(attributes: Attributes, x: Array) -> Array:
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    cells = _cells(_windows(attributes, x, attributes["kernel_shape"], lowest))
    y: Array = next(cells).copy()
    for more in cells:
        np.maximum(y, more, out=y)
    return y


def average_pool(attributes: Attributes, x: Array) -> Array:
    """Padding counts as cells only where `count_include_pad` says so."""
    kernel = attributes["kernel_shape"]
    counted = np.ones((1, 1) + x.shape[2:], x.dtype)
    fill = 1 if attributes.get("count_include_pad", 0) else 0
    y = _sum(_windows(attributes, x, kernel, 0))
    y /= _sum(_windows(attributes, counted, kernel, fill))
    return y


def _windows(attributes: Attributes, x: Array, kernel: Sequence[int], fill: float) -> Array:
    """x (B, C, H, W), padded with `fill` -> a view (B, C, H', W', kh, kw) of what each output cell sees."""
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or attributes.get("ceil_mode", 0):
        raise Unsupported("auto_pad or ceil_mode")
    if x.ndim != 4 or list(attributes.get("kernel_shape", kernel)) != list(kernel):
        raise Unsupported("kernel %s over an input of shape %s" % (list(kernel), x.shape))
    steps, gaps = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    # as_strided believes whatever it is told, and would read beyond the array.
    if min(tuple(kernel) + tuple(steps) + tuple(gaps)) < 1 or min(top, left, bottom, right) < 0:
        raise Unsupported("kernel %s, strides %s, dilations %s" % (list(kernel), steps, gaps))
    if top or left or bottom or right:
        height, width = x.shape[2:]
        padded = np.empty(x.shape[:2] + (top + height + bottom, left + width + right), x.dtype)
        padded.fill(fill)
        padded[:, :, top : top + height, left : left + width] = x
        x = padded
    shape = tuple((x.shape[2 + i] - gaps[i] * (kernel[i] - 1) - 1) // steps[i] + 1 for i in (0, 1))
    if min(shape) < 1:
        raise Unsupported("kernel %s over an input of shape %s" % (list(kernel), x.shape))
    strides = tuple(x.strides[2 + i] * steps[i] for i in (0, 1)) + tuple(x.strides[2 + i] * gaps[i] for i in (0, 1))
    return as_strided(x, x.shape[:2] + shape + tuple(kernel), x.strides[:2] + strides)


def _cells(windows: Array) -> Iterator[Array]:
    """(..., kh, kw) -> each of the kernel's cells, (...)."""
    for i in range(windows.shape[-2]):
        for j in range(windows.shape[-1]):
            yield windows[..., i, j]


def _sum(windows: Array) -> Array:
    y = np.zeros(windows.shape[:-2], windows.dtype)
    for cells in _cells(windows):
        y += cells
    return y


def resize(
    attributes: Attributes,
    x: Array,
    _: Optional[Array] = None,
    scales: Optional[Array] = None,
    sizes: Optional[Array] = None,
) -> Array:
    """Along every axis, cell i of the output is cell floor(i / scale) of the input."""
    modes = [attributes.get("mode", "nearest")]
    modes += [attributes.get(name) for name in ("coordinate_transformation_mode", "nearest_mode")]
    if modes != ["nearest", "asymmetric", "floor"] or (scales is None) == (sizes is None):
        raise Unsupported("modes %s" % modes)
    for axis, length in enumerate(x.shape):
        if sizes is not None:
            count = int(sizes[axis])
            scale = np.float32(count) / np.float32(length)
        elif scales is not None:
            scale = np.float32(scales[axis])
            count = int(np.float32(length) * scale)
        if scale != 1:
            cells = np.floor(np.arange(count, dtype=np.float32) / scale).astype(np.int64)
            x = np.take(x, np.minimum(cells, length - 1), axis=axis)
    return x


# -- arithmetic


def clip(_: Attributes, x: Array, low: Optional[Array] = None, high: Optional[Array] = None) -> Array:
    if low is not None:
        x = np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def gemm(attributes: Attributes, a: Array, b: Array, c: Optional[Array] = None) -> Array:
    """alpha * a @ b + beta * c, where a and b may be transposed first."""
    kind = a.dtype.type
    y: Array = np.dot(a.T if attributes.get("transA") else a, b.T if attributes.get("transB") else b)
    alpha, beta = attributes.get("alpha", 1), attributes.get("beta", 1)
    y = y if alpha == 1 else y * kind(alpha)
    return y if c is None else y + (c if beta == 1 else c * kind(beta))


def reduced(by: Callable[..., Any], attributes: Attributes, x: Array) -> Array:
    axes = attributes.get("axes", range(x.ndim))
    return np.asarray(by(x, axis=tuple(axes), keepdims=bool(attributes.get("keepdims", 1))))


def reduce_sum(attributes: Attributes, x: Array, axes: Optional[Array] = None) -> Array:
    """Over every axis where none is given."""
    if attributes.get("noop_with_empty_axes", 0):
        raise Unsupported("noop_with_empty_axes")
    over = tuple(range(x.ndim)) if axes is None else tuple(axes.tolist())
    return np.asarray(x.sum(axis=over, keepdims=bool(attributes.get("keepdims", 1))))


def arg_max(attributes: Attributes, x: Array) -> Array:
    """The place of the maximum; of equal ones, the first."""
    if attributes.get("select_last_index", 0):
        raise Unsupported("select_last_index")
    axis = attributes.get("axis", 0)
    y = np.asarray(x.argmax(axis))
    return unsqueeze({}, y, np.array([axis % x.ndim])) if attributes.get("keepdims", 1) else y


def softmax(attributes: Attributes, x: Array) -> Array:
    y: Array = np.exp(log_softmax(attributes, x))
    return y


def log_softmax(attributes: Attributes, x: Array) -> Array:
    axis = attributes.get("axis", -1)
    below = x - x.max(axis=axis, keepdims=True)
    y: Array = below - np.log(np.exp(below).sum(axis=axis, keepdims=True))
    return y


# -- shapes and types


def cut(
    _: Attributes, x: Array, starts: Array, ends: Array, axes: Optional[Array] = None, steps: Optional[Array] = None
) -> Array:
    """Slice: from `starts` to before `ends`, along `axes`."""
    along = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    if min(by) < 1:
        raise Unsupported("steps %s" % by)
    parts = [slice(None)] * x.ndim
    for axis, start, end, step in zip(along, starts.tolist(), ends.tolist(), by):
        parts[axis] = slice(start, end, step)
    return x[tuple(parts)]


def flatten(attributes: Attributes, x: Array) -> Array:
    return x.reshape(int(np.prod(x.shape[: attributes.get("axis", 1)])), -1)


def reshape(_: Attributes, x: Array, shape: Array) -> Array:
    """0 stands for the input's own dimension."""
    return x.reshape([n or x.shape[i] for i, n in enumerate(shape.tolist())])


def squeeze(_: Attributes, x: Array, axes: Optional[Array] = None) -> Array:
    return np.squeeze(x, None if axes is None else tuple(axis % x.ndim for axis in axes.tolist()))


def unsqueeze(_: Attributes, x: Array, axes: Array) -> Array:
    rank = x.ndim + axes.size
    new = {axis % rank for axis in axes.tolist()}
    old = iter(x.shape)
    return x.reshape([1 if axis in new else next(old) for axis in range(rank)])


def where(_: Attributes, which: Array, a: Array, b: Array) -> Array:
    result: Array = np.where(which, a, b)
    return result


def cast(attributes: Attributes, x: Array) -> Array:
    return x.astype(np.dtype(DTYPES[attributes["to"]]).newbyteorder("="))


def quantize(attributes: Attributes, x: Array, scale: Array, zero: Optional[Array] = None) -> Array:
    """round(x / scale) + zero; halves go to the even neighbour, and what is out of range saturates."""
    zero = np.zeros(scale.shape, np.uint8) if zero is None else zero
    limits = np.iinfo(zero.dtype)
    y: Array = np.rint(x / _along(attributes, x, scale)) + _along(attributes, x, zero).astype(scale.dtype)
    return np.clip(y, limits.min, limits.max).astype(zero.dtype)


def dequantize(attributes: Attributes, x: Array, scale: Array, zero: Optional[Array] = None) -> Array:
    """(x - zero) * scale."""
    wide = x.astype(np.int64) if zero is None else x.astype(np.int64) - _along(attributes, x, zero)
    y: Array = wide.astype(scale.dtype)
    return y * _along(attributes, x, scale)


def _along(attributes: Attributes, x: Array, values: Array) -> Array:
    """One value for the tensor, or one for each slice along `axis`, to compute with x."""
    if values.size == 1:
        return values.reshape(())
    shape = [1] * x.ndim
    shape[attributes.get("axis", 1)] = values.size
    return values.reshape(shape)


_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")

OPERATORS: Dict[str, Operator] = {
    "Add": Operator(lambda _, a, b: a + b),
    "And": Operator(lambda _, a, b: np.asarray(a & b)),
    "ArgMax": Operator(arg_max, ("axis", "keepdims", "select_last_index")),
    "AveragePool": Operator(average_pool, _WINDOW + ("ceil_mode", "count_include_pad")),
    "Cast": Operator(cast, ("to",)),
    "Clip": Operator(clip),
    "Concat": Operator(lambda attributes, *parts: np.concatenate(parts, attributes["axis"]), ("axis",)),
    "Constant": Operator(lambda attributes: attributes["value"], ("value",)),
    "Conv": Operator(conv, _WINDOW + ("group",)),
    "DequantizeLinear": Operator(dequantize, ("axis",)),
    "Equal": Operator(lambda _, a, b: np.asarray(a == b)),
    "Flatten": Operator(flatten, ("axis",)),
    "Gemm": Operator(gemm, ("alpha", "beta", "transA", "transB")),
    "GlobalAveragePool": Operator(lambda _, x: x.mean(axis=tuple(range(2, x.ndim)), keepdims=True)),
    "Greater": Operator(lambda _, a, b: np.asarray(a > b)),
    "Identity": Operator(lambda _, x: x),
    "Less": Operator(lambda _, a, b: np.asarray(a < b)),
    "LogSoftmax": Operator(log_softmax, ("axis",)),
    "MatMul": Operator(lambda _, a, b: np.asarray(np.matmul(a, b))),
    "MaxPool": Operator(max_pool, _WINDOW + ("ceil_mode", "storage_order")),
    "Mul": Operator(lambda _, a, b: a * b),
    "QuantizeLinear": Operator(quantize, ("axis",)),
    "ReduceMax": Operator(partial(reduced, np.max), ("axes", "keepdims")),
    "ReduceMean": Operator(partial(reduced, np.mean), ("axes", "keepdims")),
    "ReduceSum": Operator(reduce_sum, ("keepdims", "noop_with_empty_axes")),
    "Relu": Operator(lambda _, x: np.maximum(x, x.dtype.type(0))),
    "Reshape": Operator(reshape),
    "Resize": Operator(resize, ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a")),
    "Slice": Operator(cut),
    "Softmax": Operator(softmax, ("axis",)),
    "Squeeze": Operator(squeeze),
    "Sub": Operator(lambda _, a, b: a - b),
    "Transpose": Operator(lambda attributes, x: x.transpose(attributes.get("perm")), ("perm",)),
    "Unsqueeze": Operator(unsqueeze),
    "Where": Operator(where),
}
