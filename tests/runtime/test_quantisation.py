"""INT8 graphs: what is rounded, how far, and that nothing else is touched."""

import json

import numpy as np
import pytest
import synthetic_bundle
from graphs import checked, feeds_for, graph, ort_run

from da3.runtime import Runtime
from da3.runtime.backends.onnxruntime import OrtBackend
from da3.runtime.backends.reference import ReferenceBackend
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.errors import BackendError, BundleError
from da3.runtime.onnx_graph.int8 import to_int8
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.onnx_graph.opset import to_opset_19
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.subgraphs import engine_subgraph
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.schedule.layout import join_plan

HALF, FULL = np.dtype(np.float16), np.dtype(np.float32)
X = {"x": ["batch", 2, 3, 3]}
RNG = np.random.RandomState(1)
CONVOLUTIONS = [
    ("Conv", ["x", "w", "b"], ["c"], {"pads": [1] * 4}),
    ("Relu", ["c"], ["r"], {}),
    ("Conv", ["r", "dw"], ["d"], {"pads": [1] * 4, "group": 4}),
    ("Conv", ["x", "w"], ["e"], {"pads": [1] * 4}),
    ("ReduceMean", ["d"], ["m"], {"axes": [2, 3]}),
    ("Add", ["e", "m"], ["y"], {}),
]
CONVOLUTION_WEIGHTS = {
    "w": RNG.normal(0, 1, (4, 2, 3, 3)).astype(np.float32) * np.float32([100, 1, 1e-6, 0]).reshape(4, 1, 1, 1),
    "b": RNG.normal(0, 1, 4).astype(np.float32),
    "dw": RNG.normal(0, 1, (4, 1, 3, 3)).astype(np.float32),
}
OUT = {"y": ["batch", 4, 3, 3]}


def convolutions(**outputs):
    return read_model(graph(CONVOLUTIONS, X, {**OUT, **outputs}, CONVOLUTION_WEIGHTS))


def unquantised(model, name):
    """A kernel as a quantised model computes with it, and its scales."""
    (node,) = [n for n in model.nodes if n.outputs == [name] and n.op == "DequantizeLinear"]
    kernel, scale, zero = (model.weights.get(n) for n in node.inputs)
    assert node.attributes == {"axis": 0} and not zero.any() and zero.dtype == np.int8 and zero.shape == scale.shape
    return kernel.astype(np.float32) * scale.reshape(-1, 1, 1, 1), scale


def test_int8_kernels_are_within_half_a_step():
    model = convolutions()
    before = write_model(model)
    made = to_int8(model, {"x": 4.0, "r": 3.0})
    assert write_model(model) == before, "the source was changed"
    checked(write_model(made))
    convs = [node for node in made.nodes if node.op == "Conv"]
    assert convs[0].inputs[:2] == convs[2].inputs[:2], "one quantiser for one value"
    assert convs[0].inputs[2] == "b" and np.array_equal(made.weights["b"], CONVOLUTION_WEIGHTS["b"])
    assert not {"w", "dw"} & set(made.weights)
    for conv, name in ((convs[0], "w"), (convs[1], "dw")):
        kernel, scale = unquantised(made, conv.inputs[1])
        source = CONVOLUTION_WEIGHTS[name]
        assert (np.abs(kernel - source) <= scale.reshape(-1, 1, 1, 1) / 2).all()
        assert (scale > 0).all() and np.array_equal(scale.astype(np.float16).astype(np.float32), scale)
        assert scale.dtype == np.float32 and scale.shape == (4,)


@pytest.mark.parametrize("pairs", [False, True])
def test_int8_computes_what_rounding_by_hand_does(pairs):
    model = convolutions()
    made = to_int8(model, {"x": 2.0}, pairs=pairs)
    assert all(w.dtype != np.int8 or not w.any() for w in made.weights.values()) == pairs
    feeds = feeds_for(model.inputs)
    (quantiser,) = [n for n in made.nodes if n.op == "QuantizeLinear" and n.inputs[0] == "x"]
    scale = made.weights[quantiser.inputs[1]]
    assert scale.shape == () and 2.0 <= float(scale) * 127 <= 2.0 * 1.001
    by_hand = convolutions()
    if not pairs:
        by_hand.weights["w"] = unquantised(made, next(n for n in made.nodes if n.op == "Conv").inputs[1])[0]
    else:
        whole = to_int8(model, {"x": 2.0})
        by_hand.weights["w"] = unquantised(whole, next(n for n in whole.nodes if n.op == "Conv").inputs[1])[0]
    rounded = {"x": (np.clip(np.rint(feeds["x"] / scale), -128, 127) * scale).astype(np.float32)}
    (found,), (wanted,) = ort_run(checked(write_model(made)), feeds), ort_run(write_model(by_hand), rounded)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(found - ort_run(write_model(model), feeds)[0]).max() > 0


def test_int8_leaves_alone_what_was_not_measured():
    model = convolutions()
    assert write_model(to_int8(model, {})) == write_model(model)
    made = to_int8(model, {"r": 3.0})
    assert [n.inputs[0] for n in made.nodes if n.op == "QuantizeLinear"] == ["r"]
    assert np.array_equal(made.weights["w"], CONVOLUTION_WEIGHTS["w"])
    # A kernel that is read elsewhere, or handed out, stays.
    made = to_int8(convolutions(w=[4, 2, 3, 3]), {"x": 1.0})
    checked(write_model(made))
    assert np.array_equal(made.weights["w"], CONVOLUTION_WEIGHTS["w"])


@pytest.mark.parametrize("largest", [1e-30, 1e-7, 6.0, 1e4, 1e30])
def test_int8_scales_of_any_size(largest):
    made = to_int8(convolutions(), {"x": largest})
    scale = float(made.weights[next(n for n in made.nodes if n.op == "QuantizeLinear").inputs[1]])
    assert 2.0**-14 <= scale < np.inf and float(np.float16(scale)) == scale
    if largest < 65504:
        assert scale * 127 >= largest


@pytest.mark.parametrize("pairs", [False, True])
def test_every_scale_has_a_reciprocal_in_float16(pairs):
    """The kernel's channels are of size 100, 1, 1e-6 and 0: the last is dead, as some of every pretrained network."""
    made = to_int8(convolutions(), {"x": 1e-30}, pairs=pairs)
    (conv,) = [node for node in made.nodes if node.outputs == ["c"]]
    (of_kernel,) = [node for node in made.nodes if node.outputs == [conv.inputs[1]]]
    scales = made.weights[of_kernel.inputs[1]]
    assert scales[3] == 1 and scales[2] == 2.0**-14 and (scales[:2] > 2.0**-14).all()
    for quantiser in [node for node in made.nodes if node.op in ("QuantizeLinear", "DequantizeLinear")]:
        assert np.isfinite(np.float16(1) / made.weights[quantiser.inputs[1]].astype(np.float16)).all()
    shown = read_model(graph(CONVOLUTIONS, X, {"c": OUT["y"]}, CONVOLUTION_WEIGHTS))
    (found,) = ort_run(write_model(to_int8(shown, {"x": 4.0}, pairs=pairs)), feeds_for(made.inputs))
    np.testing.assert_allclose(found[:, 3], CONVOLUTION_WEIGHTS["b"][3], rtol=1e-6)  # a dead channel gives its bias


def test_opset_19_computes_the_same():
    model = convolutions()
    later = to_opset_19(model)
    assert later.opsets == {"": 19} and later.ir_version >= 9 and model.opsets == {"": 13}
    feeds = feeds_for(model.inputs)
    np.testing.assert_array_equal(ort_run(checked(write_model(later)), feeds)[0], ort_run(write_model(model), feeds)[0])


@pytest.fixture
def measured(bundle):
    """A bundle with an int8.json."""
    ranges = {f"backbone/block_{i}.onnx": {"x": 12.0 * (i + 1)} for i in range(3)}
    write_ranges(bundle, {**ranges, "backbone/stem.onnx": {"image": 4.0}})
    return bundle


def write_ranges(bundle, ranges, **changes):
    path = bundle / "backbone" / "int8.json"
    path.write_text(json.dumps({"format": 1, "ranges": ranges, **changes}))
    manifest = synthetic_bundle.read_manifest(bundle)
    manifest["files"]["backbone/int8.json"] = synthetic_bundle.file_entry(path)
    synthetic_bundle.write_manifest(bundle, manifest)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("looks_ahead", [True, False])
def test_every_int8_subgraph(measured, looks_ahead, typed):
    with Bundle(measured) as bundle:
        for subgraph in join_plan(bundle.manifest, looks_ahead).subgraphs:
            plain = subgraph_model(subgraph, bundle)
            full = {info.name for info in plain.inputs if info.name == "image"}
            model = engine_subgraph(subgraph, bundle, "int8", full, typed)
            convs = [node for node in model.nodes if node.op == "Conv"]
            writers = {name: node for node in model.nodes for name in node.outputs}
            for conv in convs:
                assert [writers[name].op for name in conv.inputs[:2]] == ["DequantizeLinear"] * 2
            if typed:
                casts = sum(node.op == "Cast" for node in model.nodes)
                assert casts == len(full & {name for node in plain.nodes for name in node.inputs})
                assert not any(w.dtype == FULL for w in model.weights.values())
            else:
                assert not any(w.dtype in (HALF, np.int8) and w.any() for w in model.weights.values())
            assert model.opsets[""] == (19 if typed and convs else 13)
            feeds = feeds_for(plain.inputs)
            typed_feeds = {info.name: feeds[info.name].astype(info.dtype) for info in model.inputs}
            found = ort_run(checked(write_model(model)), typed_feeds)
            for a, b in zip(ort_run(write_model(plain), feeds), found, strict=True):
                np.testing.assert_allclose(b.astype(np.float32), a, atol=0.1 * max(1, np.abs(a).max()))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("backend", [OrtBackend, ReferenceBackend])
def test_cpu_backends_in_other_precisions(measured, precision, backend):
    images = synthetic_bundle.images(3)
    with Runtime(measured) as exact, Runtime(measured, backend=backend(precision=precision)) as other:
        wanted = exact.run_batch(images, "flowers", force_all_blocks=True).logits
        found = other.run_batch(images, "flowers", force_all_blocks=True).logits
        assert found.dtype == np.float32 and np.abs(found - wanted).max() > 0
        np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())
        assert other.trace(images, ["x1"], "flowers")[1]["x1"].dtype == np.float32  # opens another one alike


def test_unknown_precision(built):
    for backend in (OrtBackend(precision="fp8"), ReferenceBackend("fp8")):
        with pytest.raises(BackendError, match="unknown precision 'fp8'; known: fp32, fp16, int8"):
            Runtime(built[0], backend=backend)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"backbone/gone.onnx": {"x": 1.0}}, "the bundle has no backbone/gone.onnx"),
        ({"backbone/stem.onnx": {"c": 1.0}}, "no convolution of backbone/stem.onnx reads 'c'"),
        ({"backbone/stem.onnx": {"image": 0}}, "image must be a positive number, not 0"),
        ({"backbone/stem.onnx": {"image": -1.0}}, "image must be a positive number, not -1"),
        ({"backbone/stem.onnx": {"image": "big"}}, "image must be a number"),
        ({"backbone/stem.onnx": [1.0]}, "must be an object"),
        ([], "ranges must be an object"),
    ],
)
def test_damaged_ranges(bundle, ranges, message):
    write_ranges(bundle, ranges)
    with pytest.raises(BundleError, match=message) as caught:
        Runtime(bundle, backend=OrtBackend(precision="int8"))
    assert "int8.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"backbone/gone.onnx": {"x": 1.0}}, "the bundle has no backbone/gone.onnx"),
        ({"backbone/stem.onnx": {"c": 1.0}}, "no sum or average of backbone/stem.onnx has 'c'"),
        ({"backbone/block_0.onnx": {"x": 0}}, "x must be a positive number, not 0"),
        ([], "others must be an object"),
    ],
)
def test_damaged_magnitudes_of_sums(bundle, others, message):
    write_ranges(bundle, {"backbone/stem.onnx": {"image": 4.0}}, others=others)
    with pytest.raises(BundleError, match=message) as caught:
        Runtime(bundle, backend=OrtBackend(precision="int8"))
    assert "int8.json" in str(caught.value) and "\n" not in str(caught.value)


def test_ranges_of_another_time(bundle, measured):
    write_ranges(bundle, {}, format=2)
    with pytest.raises(BundleError, match="upgrade da3"):
        Runtime(bundle, backend=OrtBackend(precision="int8"))
    (bundle / "backbone" / "int8.json").write_text("{}")
    with pytest.raises(BundleError, match=r"int8\.json has 2 bytes"):
        Runtime(bundle, backend=OrtBackend(precision="int8"))


def test_no_ranges(built):
    with pytest.raises(BundleError, match="was not measured for INT8: run `da3 calibrate --int8`"):
        Runtime(built[0], backend=OrtBackend(precision="int8"))
