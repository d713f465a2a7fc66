"""The ONNX reader and writer against the onnx package, against what ONNX Runtime writes, and against damage."""

import random

import numpy as np
import onnx
import pytest
from graphs import checked, feeds_for, graph, ort_run
from onnx import TensorProto, helper, numpy_helper

from da3.runtime.backends.sessions import open_session
from da3.runtime.errors import BundleError
from da3.runtime.onnx_graph.model import Info, Model, Node
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model

SMALL = graph(
    [
        ("Conv", ["x", "w", "b"], ["c"], {"kernel_shape": [3, 3], "pads": [1] * 4, "group": 1}),
        ("LeakyRelu", ["c"], ["d"], {"alpha": 0.3}),
        ("Constant", [], ["k"], {"value": numpy_helper.from_array(np.float32(3))}),
        ("Clip", ["d", "", "k"], ["y"], {}),
    ],
    {"x": ["batch", 2, 4, 4]},
    {"y": ["batch", 2, 4, 4]},
    {"w": np.random.RandomState(0).rand(2, 2, 3, 3).astype(np.float32), "b": np.ones(2, np.float32)},
)


def same_content(a, b):
    """Equal but for what the codec drops."""
    a, b = onnx.ModelProto.FromString(a), onnx.ModelProto.FromString(b)
    for model in (a, b):
        model.ClearField("producer_name")
        del model.graph.value_info[:]
    return a == b


def test_every_file_of_a_bundle(built):
    files = sorted([*built[0].glob("backbone/*.onnx"), *built[0].glob("adaptors/*.onnx")])
    assert len(files) == 9
    for path in [*files, SMALL]:
        data = path if isinstance(path, bytes) else path.read_bytes()
        model = read_model(data, str(path))
        written = checked(write_model(model))
        assert same_content(data, written)
        feeds = feeds_for(model.inputs)
        for before, after in zip(ort_run(data, feeds), ort_run(written, feeds), strict=True):
            np.testing.assert_array_equal(before, after)


def test_what_is_read():
    model = read_model(SMALL)
    assert [node.op for node in model.nodes] == ["Conv", "LeakyRelu", "Constant", "Clip"]
    assert model.nodes[0].attributes == {"kernel_shape": [3, 3], "pads": [1] * 4, "group": 1}
    assert model.nodes[1].attributes == {"alpha": float(np.float32(0.3))}
    value = model.nodes[2].attributes["value"]
    assert value.shape == () and value == 3
    assert model.nodes[3].inputs == ["d", "", "k"]
    assert list(model.weights) == ["w", "b"] and model.weights["w"].flags.writeable
    assert model.inputs == [Info("x", np.dtype(np.float32), ("batch", 2, 4, 4))]
    assert model.opsets == {"": 13} and model.ir_version == 7 and model.name == "graph"


@pytest.mark.parametrize("optimise", [True, False])
def test_what_onnxruntime_writes(tmp_path, optimise):
    path = str(tmp_path / "optimised.onnx")
    open_session(SMALL, save=path, optimised=not optimise)
    with open(path, "rb") as file:
        data = file.read()
    model = read_model(data)
    assert ({"com.microsoft.nchwc", "com.microsoft"} & {node.domain for node in model.nodes}) or not optimise
    feeds = feeds_for(read_model(SMALL).inputs)
    after = open_session(write_model(model), optimised=True).run(None, feeds)
    np.testing.assert_allclose(after[0], ort_run(SMALL, feeds)[0], rtol=1e-5, atol=1e-6)


DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4), (1,)])
def test_tensors_of_every_dtype(dtype, raw, shape):
    array = (np.random.RandomState(0).randint(-9, 9, shape) * 1.5).astype(np.int64 if dtype[0] in "iu" else np.float64)
    array = np.abs(array).astype(dtype) if dtype[0] == "u" else array.astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.tobytes() if raw else array.ravel().tolist()
    model = onnx.ModelProto.FromString(SMALL)
    model.graph.initializer.append(helper.make_tensor("extra", kind, shape, values, raw=raw))
    read = read_model(model.SerializeToString())
    written = read_model(checked(write_model(read)))
    for found in (read.weights["extra"], written.weights["extra"]):
        assert found.dtype == array.dtype and found.shape == shape
        np.testing.assert_array_equal(found, array)


def test_attributes_of_every_kind():
    attributes = {
        "i": -(2**40),
        "f": 0.5,
        "s": "text",
        "bytes": b"\xff\xfe",
        "ints": [1, -2],
        "floats": [1.5, 2.0],
        "strings": ["a", "b"],
        "t": np.arange(3),
        "none": [],
    }
    node = Node("Op", ["x"], ["y"], attributes, domain="some.domain", name="n")
    model = Model([node], {}, [], [], {"": 13, "some.domain": 1})
    data = write_model(model)
    theirs = {a.name: helper.get_attribute_value(a) for a in onnx.ModelProto.FromString(data).graph.node[0].attribute}
    assert (theirs["i"], theirs["f"], theirs["s"], theirs["ints"]) == (-(2**40), 0.5, b"text", [1, -2])
    node = read_model(data).nodes[0]
    np.testing.assert_array_equal(node.attributes.pop("t"), attributes.pop("t"))
    assert node.attributes == attributes
    assert (node.op, node.inputs, node.outputs, node.domain, node.name) == ("Op", ["x"], ["y"], "some.domain", "n")


def test_numbers_of_numpy_are_written_as_plain_ones():
    model = Model(
        [Node("Op", [], ["y"], {"i": np.int64(3), "f": np.float32(0.5), "l": [np.int64(1)]})], {}, [], [], {"": 13}
    )
    assert read_model(write_model(model)).nodes[0].attributes == {"i": 3, "f": 0.5, "l": [1]}


def test_arrays_in_any_order_are_written_right():
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    model = Model([], {"w": array, "t": array.T[::-1]}, [], [], {"": 13})
    found = read_model(write_model(model)).weights
    np.testing.assert_array_equal(found["w"], array)
    np.testing.assert_array_equal(found["t"], array.T[::-1])


@pytest.mark.parametrize(
    "model",
    [
        Model([], {"w": np.zeros(2, complex)}, [], [], {"": 13}),
        Model([Node("Op", [], ["y"], {"mixed": [1, "a"]})], {}, [], [], {"": 13}),
    ],
)
def test_what_cannot_be_written(model):
    with pytest.raises(BundleError):
        write_model(model)


def changed(change):
    model = onnx.ModelProto.FromString(SMALL)
    change(model)
    return model.SerializeToString()


def with_subgraph(model):
    model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph))


def external(model):
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def bfloat16(model):
    model.graph.initializer[0].data_type = TensorProto.BFLOAT16


def sparse(model):
    model.graph.sparse_initializer.add()


def function(model):
    model.functions.add()


def no_shape(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")


def a_sequence(model):
    model.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1


def too_few_numbers(model):
    model.graph.initializer[0].dims[0] = 3


def negative_size(model):
    model.graph.initializer[0].dims[0] = -2


def beyond_memory(model):
    model.graph.initializer[0].dims[:] = [1 << 62, 0]
    model.graph.initializer[0].raw_data = b""


def twice(model):
    model.graph.initializer[0].name = "b"


@pytest.mark.parametrize(
    "change, message",
    [
        (with_subgraph, "attribute 'body' has kind 5"),
        (external, "in another file"),
        (bfloat16, "has data type 16"),
        (sparse, "sparse weights"),
        (function, "defines functions"),
        (no_shape, "no shape"),
        (a_sequence, "is no tensor"),
        (too_few_numbers, "holds 36 numbers"),
        (negative_size, "holds 36 numbers"),
        (beyond_memory, "tensor 'w'"),
        (twice, "two weights are called 'b'"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(BundleError, match=f"f.onnx: truncated, damaged, or not a plain ONNX file .*{message}"):
        read_model(changed(change), "f.onnx")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"\x89PNG\r\n\x1a\n",
        b"\x00" * 64,
        b"\xff" * 64,
        b"{}",
        b"\x08\x07",
        SMALL[1:],
        SMALL + b"\x0a",
    ],
)
def test_foreign_files(data):
    with pytest.raises(BundleError):
        read_model(data)


def test_any_truncation_is_refused():
    for length in range(len(SMALL)):
        with pytest.raises(BundleError):
            read_model(SMALL[:length])


def test_flipped_bytes_raise_nothing_else():
    rng = random.Random(0)
    read = 0
    for _ in range(5000):
        data = bytearray(SMALL)
        for _ in range(rng.choice([1, 1, 2, 4])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read += bool(write_model(read_model(bytes(data))))
        except BundleError:
            continue
    assert read > 100
