"""float16 graphs: valid under strict types, and close to the float32 ones."""

import numpy as np
import pytest
from graphs import checked, feeds_for, graph, ort_run
from onnx import TensorProto, numpy_helper

from da3.runtime.bundle.bundle import Bundle
from da3.runtime.onnx_graph.float16 import to_half
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.onnx_graph.model import Model
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.schedule.layout import join_plan

HALF, FULL = np.dtype(np.float16), np.dtype(np.float32)


def compare(source, keep=(), tolerance=0.01):
    """The float16 model, after checking its types and its numbers. source: a Model, or the bytes of one."""
    model = source if isinstance(source, Model) else read_model(source)
    before = write_model(model)
    half = to_half(model, keep)
    assert write_model(model) == before, "the source was changed"
    for infos, sources in ((half.inputs, model.inputs), (half.outputs, model.outputs)):
        for info, old in zip(infos, sources, strict=True):
            expected = HALF if old.dtype == FULL and old.name not in keep else old.dtype
            assert (info.name, info.dtype, info.shape) == (old.name, expected, old.shape)
    feeds = feeds_for(model.inputs)
    halved = {info.name: feeds[info.name].astype(info.dtype) for info in half.inputs}
    found = ort_run(checked(write_model(half)), halved)
    for info, a, b in zip(half.outputs, ort_run(before, feeds), found, strict=True):
        assert b.dtype == info.dtype
        np.testing.assert_allclose(b.astype(np.float64), a, rtol=tolerance, atol=tolerance * max(1, np.abs(a).max()))
    return half


def ops(model):
    return [node.op for node in model.nodes]


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_every_subgraph_of_a_bundle(built, looks_ahead):
    with Bundle(built[0]) as bundle:
        for subgraph in join_plan(bundle.manifest, looks_ahead).subgraphs:
            model = subgraph_model(subgraph, bundle)
            inputs, outputs = ({i.name for i in infos} for infos in (model.inputs, model.outputs))
            read = {name for node in model.nodes for name in node.inputs}
            for keep in (set(), inputs, outputs, inputs | outputs):
                half = compare(model, keep)
                assert not any(w.dtype == FULL for w in half.weights.values())
                assert ops(half).count("Cast") == len(keep & (read | outputs))


X = {"x": ["batch", 2, 3, 3]}
Y = {"y": ["batch", 2, 3, 3]}
SCALES = np.float32([1, 1, 2, 2])


@pytest.mark.parametrize("how", ["weight", "value", "value_floats"])
def test_resize_scales_stay_float32(how):
    nodes = [
        ("Relu", ["x"], ["t"], {}),
        ("Resize", ["t", "", "s"], ["y"], {"mode": "nearest", "nearest_mode": "floor"}),
    ]
    if how != "weight":
        value = numpy_helper.from_array(SCALES) if how == "value" else SCALES.tolist()
        nodes.insert(0, ("Constant", [], ["s"], {how: value}))
    half = compare(graph(nodes, X, {"y": ["batch", 2, 6, 6]}, {"s": SCALES} if how == "weight" else {}))
    assert ops(half) == ["Relu", "Resize"] and half.weights["s"].dtype == FULL


def test_a_weight_read_in_both_types():
    nodes = [
        ("Mul", ["x", "s"], ["t"], {}),
        ("Resize", ["t", "", "s"], ["u"], {"mode": "nearest", "nearest_mode": "floor"}),
        ("Mul", ["u", "s_float16"], ["y"], {}),
    ]
    weights = {"s": SCALES, "s_float16": np.float32([3])}
    half = compare(graph(nodes, {"x": ["batch", 2, 3, 4]}, {"y": ["batch", 2, 6, 8]}, weights))
    assert {name: w.dtype for name, w in half.weights.items()} == {"s": FULL, "s_float16_": HALF, "s_float16": HALF}


def test_constants_and_casts():
    nodes = [
        ("Constant", [], ["k"], {"value_float": 0.5}),
        ("Constant", [], ["n"], {"value_int": 3}),
        ("Cast", ["n"], ["nf"], {"to": TensorProto.FLOAT}),
        ("Shape", ["x"], ["shape"], {}),
        ("ConstantOfShape", ["shape"], ["zeros"], {}),
        ("ConstantOfShape", ["shape"], ["ones"], {"value": numpy_helper.from_array(np.float32([1]))}),
        ("Add", ["x", "k"], ["a"], {}),
        ("Mul", ["a", "nf"], ["b"], {}),
        ("Add", ["b", "zeros"], ["c"], {}),
        ("Add", ["c", "ones"], ["y"], {}),
        ("Cast", ["y"], ["i"], {"to": TensorProto.INT64}),
    ]
    data = graph(nodes, X, {**Y, "i": (["batch", 2, 3, 3], TensorProto.INT64)})
    for keep in ((), ("y",), ("x", "y")):
        compare(data, keep, tolerance=1)  # i is cut off, a whole number either way
        compare(graph(nodes[:-1], X, Y), keep)


def test_an_output_that_is_read_inside():
    nodes = [("Relu", ["x"], ["t"], {}), ("Neg", ["t"], ["u"], {}), ("Exp", ["u"], ["y"], {})]
    data = graph(nodes, X, {"t": X["x"], "u": X["x"], **Y})
    assert ops(compare(data)) == ["Relu", "Neg", "Exp"]
    half = compare(data, ("t",))
    assert ops(half) == ["Relu", "Cast", "Neg", "Exp"] and half.nodes[2].inputs == ["t_float16"]
    assert ops(compare(data, ("t", "u", "x", "y"))).count("Cast") == 4


def test_an_input_and_a_constant_handed_on():
    data = graph([("Add", ["x", "k"], ["y"], {})], X, {**Y, "x": X["x"], "k": [1]}, {"k": np.float32([2])})
    for keep in ((), ("x",), ("k",), ("k", "x", "y")):
        half = compare(data, keep)
    assert ops(half) == ["Cast", "Add", "Cast"]
    assert {name: w.dtype for name, w in half.weights.items()} == {"k": FULL, "k_float16": HALF}


QUANTISED = [
    ("QuantizeLinear", ["x", "xs", "xz"], ["q"], {}),
    ("DequantizeLinear", ["q", "xs", "xz"], ["d"], {}),
    ("DequantizeLinear", ["w", "ws", "wz"], ["v"], {"axis": 0}),
    ("Conv", ["d", "v", "b"], ["c"], {"pads": [1] * 4}),
    ("Relu", ["c"], ["y"], {}),
    ("DequantizeLinear", ["q", "xs", "xz"], ["z"], {}),
]
QUANTISED_WEIGHTS = {
    "xs": np.float32(0.03),
    "xz": np.int8(3),
    "w": np.random.RandomState(0).randint(-127, 128, (2, 2, 3, 3)).astype(np.int8),
    "ws": np.float32([0.01, 0.02]),
    "wz": np.int8([0, 0]),
    "b": np.float32([0.5, -0.5]),
}


@pytest.mark.parametrize("keep", [(), ("x",), ("y", "z")])
def test_quantisation_before_opset_19_computes_in_float32(keep):
    # One step of the quantiser apart at most, where float16's input rounds to the other side.
    half = compare(graph(QUANTISED, X, {**Y, "z": X["x"]}, QUANTISED_WEIGHTS), keep, tolerance=0.04)
    assert half.weights["xs"].dtype == half.weights["ws"].dtype == FULL and half.weights["b"].dtype == HALF


def test_quantisation_from_opset_19_on_computes_in_float16():
    half = compare(graph(QUANTISED, X, {**Y, "z": X["x"]}, QUANTISED_WEIGHTS, opset=19), tolerance=0.04)
    assert half.weights["xs"].dtype == half.weights["ws"].dtype == HALF and "Cast" not in ops(half)


def test_numbers_beyond_float16_saturate():
    weights = {"k": np.float32([1e30, -np.inf]), "n": np.float32([np.nan])}
    data = graph([("Min", ["x", "k"], ["t"], {}), ("Add", ["t", "n"], ["y"], {})], {"x": [2]}, {"y": [2]}, weights)
    half = to_half(read_model(data))
    assert half.weights["k"].tolist() == [65504, -65504] and np.isnan(half.weights["n"]).all()
