"""Graphs that the manifest vouches for, and that no engine may see."""

import numpy as np
import pytest
from hostile import onnx_bytes as bytes_of
from hostile import vouched, within
from synthetic_bundle import X, images

from da3.runtime import BundleError, Runtime
from da3.runtime.onnx_graph import read_model
from da3.runtime.onnx_graph.bounds import check_graph
from da3.runtime.records import Segment, Value

FEATURES = ("batch", 4, 8, 8)


def onnx_bytes(nodes, weights=None, shape=FEATURES, out=FEATURES):
    """A graph that makes y of x."""
    return bytes_of(nodes, weights, {"x": shape}, {"y": out})


def check(data, shape=FEATURES, out=FEATURES):
    model = read_model(data, "f.onnx")
    check_graph(model, Segment("s", "f.onnx", (Value("x", shape),), (Value("y", out),)), "f.onnx")


KERNELS = np.ones((4, 4, 3, 3), np.float32)


def conv(kernels=KERNELS, **attributes):
    return [("Conv", ["x", "k"], "y", attributes)], {"k": kernels}


def pool(op="MaxPool", **attributes):
    return [(op, ["x"], "y", dict({"kernel_shape": [3, 3], "pads": [1] * 4}, **attributes))], {}


def given(op, attributes=None, **arrays):
    """A node that reads x and these."""
    inputs = ["x", *arrays]
    return [(op, inputs, "y", attributes or {})], arrays


def ints(*numbers):
    return np.array(numbers, np.int64)


def floats(*numbers):
    return np.array(numbers, np.float32)


REFUSED = {
    "stride 0": (conv(strides=[0, 0], pads=[1] * 4), r"strides \[0, 0\]"),
    "stride -1": (conv(strides=[-1, 1], pads=[1] * 4), "strides"),
    "dilation 0": (conv(dilations=[0, 1], pads=[1] * 4), "dilations"),
    "group 0": (conv(group=0, pads=[1] * 4), "in 0 groups"),
    "group 3": (conv(group=3, pads=[1] * 4), "in 3 groups"),
    "group 2^62": (conv(group=2**62, pads=[1] * 4), "groups"),
    "kernel of another shape": (conv(kernel_shape=[5, 5], pads=[1] * 4), "kernel_shape"),
    "kernel 0": (conv(np.ones((4, 4, 0, 0), np.float32)), "kernel"),
    "no kernels": (conv(np.ones((0, 4, 3, 3), np.float32), pads=[1] * 4), "kernels"),
    "kernel of rank 2": (conv(np.ones((4, 4), np.float32)), "kernels"),
    "pads of a million": (conv(pads=[10**6] * 4), "pads|kernel"),
    "pads 30,000": (conv(pads=[30000] * 4), r"pads \[30000"),
    "pads -1": (conv(pads=[-1] * 4), "pads"),
    "three pads": (conv(pads=[1] * 3), "pads"),
    "kernel beyond the input": (conv(dilations=[9, 9]), "a kernel of 19 over 8"),
    "automatic pads": (conv(auto_pad="SAME_UPPER"), "auto_pad"),
    "pool of 0": (pool(kernel_shape=[0, 0]), "kernel"),
    "pool of one side": (pool(kernel_shape=[3]), "kernel"),
    "pool by 0": (pool("AveragePool", strides=[0, 0]), "strides"),
    "resize by a billion": (
        given("Resize", {"mode": "nearest"}, r=floats(), s=floats(1, 1, 1e9, 1e9)),
        "numbers allowed",
    ),
    "resize by NaN": (given("Resize", {"mode": "nearest"}, r=floats(), s=floats(1, 1, np.nan, 2)), "not finite"),
    "resize by 0": (given("Resize", {"mode": "nearest"}, r=floats(), s=floats(1, 1, 0, 1)), r"\(1, 4, 0, 8\)"),
    "resize of channels": (given("Resize", {"mode": "nearest"}, r=floats(), s=floats(1, 9, 1, 1)), r"\(1, 36, 8, 8\)"),
    "reshape": (given("Reshape", s=ints(1, 4, 8, 9)), r"to \[1, 4, 8, 9\]"),
    "reshape -1 twice": (given("Reshape", s=ints(-1, -1, 8, 8)), "to"),
    "reshape of nothing": (given("Reshape", s=ints(0, 0, 0, 0, 0, -1)), "to"),
    "transpose": (given("Transpose", {"perm": [0, 1, 1, 3]}), "perm"),
    "concat": (given("Concat", {"axis": 9}), "axis 9"),
    "slice by 0": (given("Slice", s=ints(0), e=ints(8), a=ints(1), t=ints(0)), "steps"),
    "squeeze": (given("Squeeze", s=ints(1)), "axes"),
    "sums": (given("Add", k=np.ones((3, 1, 1), np.float32)), "shapes"),
    "a sum that grows": (given("Add", k=np.ones((1 << 21, 1, 1, 1), np.float32)), "numbers allowed"),
    "clip": ([("Clip", ["x", "k", "k"], "y", {})], {"k": floats(1, 2)}),
    "softmax": (given("Softmax", {"axis": 4}), "axis 4"),
    "rank": (given("Unsqueeze", s=ints(0, 1, 2, 3, 4)), "numbers allowed"),
    "an attribute of another kind": (conv(strides="x"), "no list of integers"),
    "what folds to gigabytes": (
        ([("ConstantOfShape", ["s"], "c", {}), ("Identity", ["x"], "y", {})], {"s": ints(1, 1 << 34)}),
        "ConstantOfShape",
    ),
    "expand": (given("Expand", s=ints(2**40, 1, 1, 1)), "'Expand', .*bundles are not written with"),
    "tile": (given("Tile", s=ints(1, 1, 2**30, 1)), "'Tile'"),
    "pad": (given("Pad", s=ints(0, 0, 2**31, 0, 0, 0, 0, 0)), "'Pad'"),
    "another domain": ([("Relu", ["x"], "y", {"domain": "com.microsoft"})], "not written"),
    "one that reads what nobody writes": ([("Relu", ["z"], "y", {})], "'z', which nothing before it writes"),
    "one that writes twice": ([("Relu", ["x"], "y", {}), ("Relu", ["x"], "y", {})], "written already"),
    "one that writes its input": ([("Relu", ["x"], "x", {}), ("Relu", ["x"], "y", {})], "written already"),
    "one that writes no output": ([("Relu", ["x"], "t", {})], "nothing writes its output 'y'"),
    "inputs": ([("MatMul", ["x"] * 2002, "y", {})], "it has 2002 inputs, and takes 2"),
    "an input too few": ([("Add", ["x"], "y", {})], "input 1 is missing"),
    "an input of a constant": ([("Constant", ["x"], "y", {})], "it has 1 inputs, and takes 0"),
    "too many": ([("Relu", [f"v{i}" if i else "x"], f"v{i + 1}", {}) for i in range(5000)], "5000 nodes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_engine_may_see(name):
    what, message = REFUSED[name]
    if name == "clip":
        (nodes, weights), message = (what, message), "a bound of shape"
    else:
        nodes, weights = what if isinstance(what, tuple) else (what, {})
    with within(40), pytest.raises(BundleError, match=message):
        check(onnx_bytes(nodes, weights))


def test_what_onnxruntime_dies_on():
    """-2^63 / -1 overflows: its release 1.31 folds the constants while it loads the graph, and the process ends with
    SIGFPE. No bundle divides, or has integers to compute with."""
    for op in ("Div", "Mod"):
        nodes = [(op, ["a", "b"], "o", {}), ("Cast", ["o"], "f", {"to": 1}), ("Add", ["x", "f"], "y", {})]
        with pytest.raises(BundleError, match=f"'{op}', which writes 'o': bundles are not written with this operator"):
            check(onnx_bytes(nodes, {"a": ints(-(2**63)), "b": ints(-1)}))


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
def test_no_backend_sees_it(bundle, backend):
    nodes = [("Conv", ["x", "k"], "c", {"pads": [1] * 4, "strides": [0, 0]}), ("Add", ["c", "a"], "y", {})]
    data = bytes_of(nodes, {"k": KERNELS}, {"x": X, "a": ("batch", 4, 1, 1)}, {"y": X})
    vouched(bundle, "backbone/block_1.onnx", data)
    with pytest.raises(
        BundleError, match=r"backbone/block_1.onnx: 'Conv', which writes 'c': kernel .*strides \[0, 0\]"
    ):
        Runtime(bundle, backend=backend).load("flowers")


def test_outputs_that_are_not_what_the_manifest_says(bundle):
    data = onnx_bytes(
        [("Conv", ["x", "k"], "y", {"pads": [1] * 4})], {"k": np.ones((8, 4, 3, 3), np.float32)}, out=FEATURES
    )
    with pytest.raises(
        BundleError, match=r"output 'y' has the shape \[1, 8, 8, 8\], and the manifest says \['batch', 4, 8, 8\]"
    ):
        check(data)
    data = onnx_bytes([("Relu", ["x"], "y", {})], shape=("batch", 5, 8, 8))
    with pytest.raises(
        BundleError, match=r"it declares 'x' as float32 of shape \['batch', 5, 8, 8\], and the manifest says"
    ):
        check(data)
    data = onnx_bytes([("Relu", ["x"], "y", {})], shape=("batch", 4, 8))
    with pytest.raises(BundleError, match="it declares 'x'"):
        check(data)


def test_a_domains_size_is_no_number_of_the_graph():
    nodes, weights = given("Add", k=np.ones((7,), np.float32))
    with pytest.raises(BundleError, match="shapes"):
        check(
            onnx_bytes(nodes, weights, ("batch", "classes"), ("batch", "classes")),
            ("batch", "classes"),
            ("batch", "classes"),
        )
    nodes, weights = given("Add", k=np.ones((1,), np.float32))
    check(
        onnx_bytes(nodes, weights, ("batch", "classes"), ("batch", "classes")),
        ("batch", "classes"),
        ("batch", "classes"),
    )


def test_a_weight_of_200_000_dimensions_is_read_in_no_time(bundle):
    """The product of its dimensions, one by one, would take as long as the square of them."""
    data = onnx_bytes(*conv(np.ones((4, 4, 3, 3), np.float32), pads=[1] * 4))
    from onnx import ModelProto

    model = ModelProto.FromString(data)
    model.graph.initializer[0].dims.extend([9] * 200_000)
    with pytest.raises(BundleError, match="tensor 'k' has 200004 dimensions"):
        read_model(model.SerializeToString())


def test_data_in_other_files_is_refused(bundle, tmp_path):
    from onnx import ModelProto, external_data_helper

    (tmp_path / "secret").write_bytes(bytes(4 * 144))
    model = ModelProto.FromString(onnx_bytes(*conv(pads=[1] * 4)))
    weight = model.graph.initializer[0]
    external_data_helper.set_external_data(weight, str(tmp_path / "secret"))
    weight.ClearField("raw_data")
    with pytest.raises(BundleError, match="the data of tensor 'k' is in another file"):
        read_model(model.SerializeToString())


def test_work_is_bounded():
    """A thousand convolutions, each of which is allowed."""
    kernels = np.ones((64, 64, 7, 7), np.float32)
    nodes = [("Conv", [f"v{i}" if i else "x", "k"], f"v{i + 1}", {"pads": [3] * 4}) for i in range(1000)]
    with pytest.raises(BundleError, match="more to compute than in any network"):
        check(
            onnx_bytes(nodes, {"k": kernels}, ("batch", 64, 112, 112), ("batch", 64, 112, 112)), ("batch", 64, 112, 112)
        )


def test_a_good_bundle_is_as_before(built):
    with Runtime(built[0], backend="reference") as runtime:
        assert runtime.run_batch(images(1), "flowers").logits.shape == (1, 3)
