"""The operators in numpy against ONNX Runtime."""

import re
from pathlib import Path

import numpy as np
import pytest
from graphs import graph, ort_run
from onnx import TensorProto

from da3.runtime import BackendError
from da3.runtime.backends.numpy_ops import OPERATORS
from da3.runtime.backends.reference import Program
from da3.runtime.onnx_graph.model import DTYPES
from da3.runtime.onnx_graph.reading import read_model

RNG = np.random.RandomState(0)


def normal(*shape):
    return RNG.normal(0, 1, shape).astype(np.float32)


def program(op, inputs, attributes=None, result=None, opset=13):
    """(bytes, Program, feeds) of one node, the first input given, the others weights; None omits an input."""
    names = ["" if value is None else f"i{n}" for n, value in enumerate(inputs)]
    x, weights = inputs[0], {n: v for n, v in zip(names[1:], inputs[1:], strict=True) if n}
    kinds = {"f": TensorProto.FLOAT, "i": TensorProto.INT8, "u": TensorProto.UINT8, "b": TensorProto.BOOL}
    kind = kinds[x.dtype.kind]
    # The output's shape is left to ONNX: only its rank is said.
    shape = [None] * (x.ndim if result is None else result)
    out = TensorProto.FLOAT
    if op == "QuantizeLinear":
        out = TensorProto.UINT8 if len(inputs) < 3 or inputs[2].dtype == np.uint8 else TensorProto.INT8
    if op == "Cast":
        out = attributes["to"]
    if op in ("And", "Equal", "Greater", "Less"):
        out = TensorProto.BOOL
    if op == "ArgMax":
        out = TensorProto.INT64
    nodes = [(op, names, ["y"], attributes or {})]
    data = graph(nodes, {"i0": (list(x.shape), kind)}, {"y": (shape, out)}, weights, opset)
    return data, Program(read_model(data), "subgraph p"), {"i0": x}


def check(op, inputs, attributes=None, result=None, exact=False):
    data, ours, feeds = program(op, inputs, attributes, result)
    expected, found = ort_run(data, feeds)[0], ours.run(list(feeds.values()))[0]
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if exact:
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


CONVOLUTIONS = [
    # channels in and out, group, kernel, other attributes
    (3, 8, 1, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    (3, 8, 1, (7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    (3, 4, 1, (3, 3), {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    (6, 4, 1, (1, 1), {}),
    (6, 4, 1, (1, 1), {"strides": [2, 2]}),
    (6, 6, 6, (3, 3), {"pads": [1, 1, 1, 1]}),
    (6, 6, 6, (5, 3), {"strides": [2, 1], "pads": [2, 0, 1, 3]}),
    (6, 12, 6, (3, 3), {}),
    (6, 4, 2, (3, 2), {"strides": [1, 3], "pads": [0, 1, 2, 0]}),
    (4, 4, 1, (3, 3), {"dilations": [2, 1], "pads": [2, 1, 2, 1]}),
    (4, 4, 4, (3, 3), {"dilations": [1, 2]}),
    (1, 1, 1, (1, 1), {}),
    (1, 5, 1, (3, 3), {}),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cin, cout, group, kernel, attributes", CONVOLUTIONS)
def test_conv(cin, cout, group, kernel, attributes, bias):
    inputs = [normal(2, cin, 11, 9), normal(cout, cin // group, *kernel)] + [normal(cout)] * bias
    check("Conv", inputs, dict(attributes, group=group))
    check("Conv", inputs, dict(attributes, group=group, kernel_shape=list(kernel)))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [4, 4], "strides": [4, 4]},
        {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [0, 1, 1, 2]},
        {"kernel_shape": [1, 1]},
    ],
)
def test_pools(op, attributes):
    check(op, [normal(2, 3, 9, 12)], attributes)
    check(op, [normal(2, 3, 9, 12) - 9], attributes)  # padding must not win


def test_average_pool_with_padding_counted():
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    check("AveragePool", [normal(2, 3, 5, 6)], attributes)


MODES = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@pytest.mark.parametrize("factors", [(2, 2), (7, 7), (1, 3), (1.5, 2.5), (0.5, 1 / 3), (3.7, 0.7), (1, 1)])
def test_resize(factors):
    x = normal(2, 3, 8, 9)
    check("Resize", [x, None, np.float32([1, 1, *factors])], MODES, exact=True)
    sizes = np.int64([2, 3, *(max(1, int(n * f)) for n, f in zip(x.shape[2:], factors, strict=True))])
    check("Resize", [x, None, None, sizes], MODES, exact=True)


ints = np.int64
PLAIN = [
    ("Add", [normal(2, 3, 4), normal(3, 1)], {}, 3),
    ("Sub", [normal(2, 3), normal(3)], {}, 2),
    ("Mul", [normal(2, 3), np.float32(2)], {}, 2),
    ("Greater", [normal(2, 3), np.float32(0)], {}, 2),
    ("Where", [np.array([[True], [False]]), normal(2, 3), np.float32(0)], {}, 2),
    ("Relu", [normal(2, 3)], {}, 2),
    ("Identity", [normal(2, 3)], {}, 2),
    ("Clip", [normal(5, 5) * 9, np.float32(0), np.float32(6)], {}, 2),
    ("Clip", [normal(5, 5) * 9, None, np.float32(6)], {}, 2),
    ("Clip", [normal(5, 5) * 9, np.float32(0)], {}, 2),
    ("Clip", [normal(5, 5) * 9], {}, 2),
    ("GlobalAveragePool", [normal(2, 3, 5, 7)], {}, 4),
    ("ReduceMean", [normal(2, 3, 5, 7)], {"axes": [2, 3], "keepdims": 0}, 2),
    ("ReduceMean", [normal(2, 3, 5)], {"axes": [-1]}, 3),
    ("ReduceMean", [normal(2, 3, 5)], {}, 3),
    ("ReduceMean", [normal(2, 3, 5)], {"keepdims": 0}, 0),
    ("MatMul", [normal(2, 3), normal(3, 4)], {}, 2),
    ("MatMul", [normal(5, 3), normal(2, 3, 4)], {}, 3),
    ("MatMul", [normal(2, 3), normal(3)], {}, 1),
    ("Gemm", [normal(2, 3), normal(4, 3), normal(4)], {"transB": 1}, 2),
    ("Gemm", [normal(3, 2), normal(3, 4)], {"transA": 1, "alpha": 0.5}, 2),
    ("Gemm", [normal(2, 3), normal(3, 4), normal(2, 1)], {"alpha": 2.0, "beta": 0.25}, 2),
    ("Flatten", [normal(2, 3, 4, 5)], {}, 2),
    ("Flatten", [normal(2, 3, 4, 5)], {"axis": 3}, 2),
    ("Flatten", [normal(2, 3, 4, 5)], {"axis": -1}, 2),
    ("Flatten", [normal(2, 3, 4, 5)], {"axis": 0}, 2),
    ("Reshape", [normal(2, 3, 4), ints([0, -1])], {}, 2),
    ("Reshape", [normal(2, 3, 4), ints([-1, 3, 2, 2])], {}, 4),
    ("Reshape", [normal(2, 1), ints([-1])], {}, 1),
    ("Transpose", [normal(2, 3, 4, 5)], {"perm": [0, 2, 3, 1]}, 4),
    ("Transpose", [normal(2, 3, 4)], {}, 3),
    ("Unsqueeze", [normal(2, 3), ints([2, 3])], {}, 4),
    ("Unsqueeze", [normal(2, 3), ints([-1, 0])], {}, 4),
    ("Squeeze", [normal(2, 1, 3, 1), ints([1, -1])], {}, 2),
    ("Squeeze", [normal(2, 1, 3, 1)], {}, 2),
    ("Less", [normal(2, 3), np.float32(0)], {}, 2),
    ("And", [normal(2, 3) > 0, normal(2, 3) > 0], {}, 2),
    ("Equal", [normal(2, 3).round(), np.float32(0)], {}, 2),
    ("ArgMax", [normal(2, 9, 3).round()], {"axis": 1}, 3),
    ("ArgMax", [normal(2, 9, 3).round()], {"axis": -1, "keepdims": 0}, 2),
    ("Softmax", [normal(2, 3, 4) * 50], {"axis": 1}, 3),
    ("LogSoftmax", [normal(2, 3, 4) * 50], {}, 3),
    ("ReduceSum", [normal(2, 3, 5), ints([0, 2])], {"keepdims": 0}, 1),
    ("ReduceSum", [normal(2, 3, 5)], {}, 3),
    ("Slice", [normal(5, 4, 3), ints([1, 0]), ints([3, 2]), ints([1, -1])], {}, 3),
    ("Slice", [normal(5, 4), ints([1, -3]), ints([9, -1])], {}, 2),
    ("Slice", [normal(5, 4), ints([0]), ints([5]), ints([0]), ints([2])], {}, 2),
    ("Cast", [normal(2, 3) * 9], {"to": TensorProto.INT64}, 2),
    ("Cast", [normal(2, 3)], {"to": TensorProto.FLOAT16}, 2),
    ("Cast", [normal(2, 3)], {"to": TensorProto.BOOL}, 2),
    ("Cast", [RNG.randint(-9, 9, (2, 3)).astype(np.int8)], {"to": TensorProto.FLOAT}, 2),
]


@pytest.mark.parametrize("op, inputs, attributes, rank", PLAIN, ids=lambda v: v if isinstance(v, str) else "")
def test_other_operators(op, inputs, attributes, rank):
    check(op, inputs, attributes, rank)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_quantisation(dtype, axis):
    x = normal(4, 4, 4) * 40
    x.flat[:8] = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e6, -1e6]  # halves, with a scale of 1; and saturation
    scale = np.float32(1) if axis is None else np.float32([1, 0.3, 0.7, 2])
    zero = np.zeros(scale.shape, dtype) + dtype(3)
    q = RNG.randint(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, x.shape).astype(dtype)
    attributes = {} if axis is None else {"axis": axis}
    check("QuantizeLinear", [x, scale, zero], attributes, exact=True)
    check("DequantizeLinear", [q, scale, zero], attributes, exact=True)
    if dtype is np.uint8:
        check("QuantizeLinear", [x, scale], attributes, exact=True)
        check("DequantizeLinear", [q, scale], attributes, exact=True)


def test_every_cast():
    for code in DTYPES:
        if code not in (4, 5, 12, 13):  # ONNX Runtime is slow to learn unsigned casts; ours are numpy's
            check("Cast", [np.abs(normal(3, 4)) * 9], {"to": code}, exact=True)


def test_every_operator_that_export_writes_is_known():
    source = (Path(__file__).parents[2] / "export" / "graph.py").read_text()
    written = set(re.findall(r'self\.node\(\s*"(\w+)"', source))
    assert {"Conv", "Resize", "Gemm"} <= written <= set(OPERATORS)


def test_an_unknown_operator_is_named():
    with pytest.raises(BackendError, match=r"^subgraph p: the reference backend has no operator Softplus$"):
        program("Softplus", [normal(2)])


@pytest.mark.parametrize(
    "op, inputs, attributes, opset",
    [
        ("ArgMax", [normal(2, 3)], {"axis": 1, "select_last_index": 1}, 13),
        ("Slice", [normal(5), ints([4]), ints([0]), ints([0]), ints([-1])], {}, 13),
        ("ReduceSum", [normal(2, 3)], {"noop_with_empty_axes": 1}, 13),
        ("ReduceMean", [normal(2, 3), ints([1])], {}, 18),
        ("Reshape", [normal(2, 3), ints([3, 2])], {"allowzero": 1}, 14),
        ("MaxPool", [normal(1, 1, 4, 4)], {"kernel_shape": [2, 2], "ceil_mode": 1}, 13),
        ("Conv", [normal(1, 1, 4, 4), normal(1, 1, 3, 3)], {"auto_pad": "SAME_UPPER"}, 13),
        ("Conv", [normal(1, 2, 4), normal(1, 2, 3)], {}, 13),
        ("Conv", [normal(1, 1, 2, 2, 2), normal(1, 1, 1, 1, 1)], {}, 13),
        ("Resize", [normal(1, 1, 4, 4), None, np.float32([1, 1, 2, 2])], {"mode": "linear"}, 13),
        ("Resize", [normal(1, 1, 4, 4), None, np.float32([1, 1, 2, 2])], {}, 13),
    ],
)
def test_what_is_refused(op, inputs, attributes, opset):
    with pytest.raises(BackendError, match=f"^subgraph p: .*{op}"):
        _, ours, feeds = program(op, inputs, attributes, opset=opset)
        ours.run(list(feeds.values()))


@pytest.mark.parametrize(
    "attributes", [{"strides": [0, 1]}, {"strides": [-1, 1]}, {"dilations": [-3, 1]}, {"pads": [-1, 0, 0, 0]}]
)
def test_no_memory_beyond_an_array_is_read(attributes):
    _, ours, feeds = program("Conv", [normal(1, 1, 4, 4), normal(1, 1, 2, 2)], {})
    ours._instructions[0].node.attributes.update(attributes)
    with pytest.raises(BackendError, match="^subgraph p: Conv failed"):
        ours.run(list(feeds.values()))
