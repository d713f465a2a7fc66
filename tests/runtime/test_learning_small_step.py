"""What keeps a training step small on a CPU: channels in groups, kernels that are held once, photos side by side."""

import subprocess
import sys

import numpy as np
import pytest
from test_learning_cpu import answers
from test_learning_step import CLASSES, deployed, double_tensors, feeds, network, run_in_double

from da3.runtime.backends.reference import Program
from da3.runtime.backends.sessions import open_session
from da3.runtime.backends.training_graph import for_this_cpu
from da3.runtime.errors import BackendError
from da3.runtime.learning import CpuRunning, channel_groups, derive_step, large_kernels
from da3.runtime.learning.channel_groups import in_channel_groups
from da3.runtime.learning.on_cpu import OnnxRuntimeRunner
from da3.runtime.learning.reverse import add_gradients
from da3.runtime.learning.statistics import _Cells
from da3.runtime.learning.trainee import in_parts
from da3.runtime.learning.writing import GraphWriter
from da3.runtime.onnx_graph.model import Info, Model, Node
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model

KIND = np.dtype(np.float32)
RNG = np.random.RandomState(0)


def numbers(*shape):
    return RNG.normal(0, 0.3, shape).astype(np.float32)


def model_of(nodes, weights, x, y):
    return Model(nodes, weights, [Info("x", KIND, ("batch", *x))], [Info("y", KIND, ("batch", *y))], {"": 13})


def conv(x, y, *constants, **attributes):
    return Node("Conv", [x, *constants], [y], attributes, name=y)


def inverted_residual(channels=80, stride=2):
    nodes = [
        conv("x", "a", "expand", "expand_bias", kernel_shape=[1, 1]),
        Node("Clip", ["a", "zero", "six"], ["b"], name="b"),
        conv("b", "c", "filter", kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4, group=channels),
        Node("Relu", ["c"], ["d"], name="d"),
        conv("d", "y", "project", "project_bias", kernel_shape=[1, 1]),
    ]
    weights = {
        "expand": numbers(channels, 8, 1, 1),
        "expand_bias": numbers(channels),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
        "filter": numbers(channels, 1, 3, 3),
        "project": numbers(12, channels, 1, 1),
        "project_bias": numbers(12),
    }
    return model_of(nodes, weights, (8, 10, 10), (12, 10 // stride, 10 // stride))


SHAPES = {"x": (-1, 8, 10, 10)}
EACH = 10 * 10 * 4  # bytes of a channel


@pytest.mark.parametrize(("limit", "groups"), [(80, [80]), (79, [48, 32]), (33, [32, 32, 16]), (1, [16] * 5)])
def test_channel_groups(limit, groups):
    model = inverted_residual()
    made = in_channel_groups(model, SHAPES, limit * EACH)
    widths = [made.weights[node.inputs[1]].shape[0] for node in made.nodes if node.attributes.get("group", 1) > 1]
    assert widths == groups
    x = RNG.normal(0, 3, (2, 8, 10, 10))
    double = [m.replace(weights={n: a.astype(np.float64) for n, a in m.weights.items()}) for m in (model, made)]
    expected, found = (Program(one, "block").run([x])[0] for one in double)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_read_elsewhere_stays_whole():
    """A wide value that another node reads, or that is an output, cannot be made in parts."""
    read = inverted_residual()
    read.nodes.append(Node("GlobalAveragePool", ["b"], ["z"]))
    output = inverted_residual()
    output.outputs.append(Info("d", KIND, ("batch", 80, 5, 5)))
    dense = inverted_residual()
    dense.nodes[2] = conv("b", "c", "dense", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    dense.weights["dense"] = numbers(80, 80, 3, 3)
    for model in (read, output, dense):
        assert len(in_channel_groups(model, SHAPES, 1).nodes) == len(model.nodes)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_the_gradient_by_the_same_kernel(kernel, stride, size):
    pad = kernel // 2
    after = (size + 2 * pad - kernel) // stride + 1
    node = conv("x", "y", "w", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
    model = model_of([node], {"w": numbers(6, 5, kernel, kernel)}, (5, size, size), (6, after, after))
    gradients = []
    for held_once in ((), ("w",)):
        out = GraphWriter(model, {"x": (-1, 5, size, size), "dy": (-1, 6, after, after)})
        out.held_once = held_once
        name = add_gradients(out, {"y": "dy"}, ["x"])["x"]
        step = model.replace(out.finished()[1:], out.weights)
        step.inputs, step.outputs = (
            [Info("dy", KIND, ("batch", 6, after, after))],
            [Info(name, KIND, ("b", 5, size, size))],
        )
        session = open_session(write_model(step))
        gradients.append(session.run(None, {"dy": np.ones((2, 6, after, after), np.float32)})[0])
        assert (list(out.weights) == ["w"]) == bool(held_once)
    assert gradients[1].shape == (2, 5, size, size)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module", params=["mobilenet_v2", "resnet18"])
def steps(request):
    """A network's tensors, its step, and that which takes little memory, with limits that suit a tiny network."""
    model = network(request.param, 0.35 if request.param == "mobilenet_v2" else 1.0, 64)
    files = deployed(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(channel_groups, "LARGE", 16 << 10)
        return (
            request.param,
            double_tensors(model),
            derive_step(files, CLASSES),
            derive_step(files, CLASSES, small=True),
        )


def test_a_small_step_has_the_same_gradients(steps):
    name, tensors, plain, small = steps
    image, labels = np.random.RandomState(3).normal(0, 1, (3, 3, 64, 64)), np.array([0, 3, 1])
    given = feeds(plain, tensors, image, labels, 1 / 3)
    expected = run_in_double(plain.model, given)
    made = for_this_cpu(small.model)
    found = answers(open_session(made, as_written=True), given)
    for key, value in expected.items():
        errors = np.abs(found[key] - value) / np.abs(value).max()
        # An activation on the other side of its limit, for another order of summation, would cost 6e-4.
        assert np.percentile(errors, 95) <= 1e-3 and errors.max() <= 0.1, key
    bytes_of = [sum(a.nbytes for a in m.weights.values()) for m in (plain.model, small.model, read_model(made))]
    if name == "resnet18":
        assert bytes_of[1] < 0.65 * bytes_of[0] and bytes_of[2] < 1.05 * bytes_of[1]
    else:
        for key, value in run_in_double(small.model, given).items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-9, atol=1e-11, err_msg=key)
        channels = [n.inputs[1] for n in small.model.nodes if "/channels_" in n.name and n.op == "Conv"]
        assert len(channels) > 10 and bytes_of[2] < 1.1 * bytes_of[0]


def test_large_kernels_are_the_last_ones():
    files = deployed(network("resnet18", 1.0, 64))
    small = derive_step(files, CLASSES, small=True).model
    shared = {node.inputs[1] for node in small.nodes if node.op == "ConvTranspose"}
    assert {small.weights[name].size >= large_kernels.LARGE for name in shared} == {True} and len(shared) == 4
    assert not any(node.op == "ConvTranspose" for node in derive_step(files, CLASSES).model.nodes)


def squares():
    return model_of([Node("Mul", ["x", "x"], ["y"])], {}, (4,), (4,))


def test_side_by_side_is_one_after_the_other():
    runner = OnnxRuntimeRunner(write_model(squares()), 2, lanes=2)
    try:
        given = [{"x": numbers(rows, 4)} for rows in (1, 3, 2, 5)]
        found = runner.run_side_by_side(given)
        assert [len(one["y"]) for one in found] == [1, 3, 2, 5]
        for one, few in zip(found, given, strict=True):
            np.testing.assert_array_equal(one["y"], few["x"] ** 2)
        with pytest.raises(BackendError, match="a training step failed"):
            runner.run_side_by_side([given[0], {"x": np.zeros((1, 5, 2), np.float32)}])
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("backend", "threads", "photos", "lanes"),
    [
        ("onnxruntime", 2, 1, 1),
        ("onnxruntime", 2, 4, 2),
        ("onnxruntime", 4, 3, 3),
        ("onnxruntime", 4, 0, 2),
        ("onnxruntime", 1, 0, 1),
        ("reference", 4, 4, 1),
    ],
)
def test_lanes(backend, threads, photos, lanes):
    assert CpuRunning(backend, threads, photos=photos).lanes == lanes


@pytest.mark.parametrize(
    ("start", "stop", "most", "rows"), [(0, 4, 2, [2, 2]), (4, 7, 2, [1, 2]), (8, 9, 2, [1]), (0, 5, 1, [5])]
)
def test_parts_of_a_slice(start, stop, most, rows):
    parts = in_parts(start, stop, most)
    assert [part.stop - part.start for part in parts] == rows
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(start, stop))


def test_cells_that_are_kept_are_copies():
    """An engine's outputs lie in its arena, which would grow by all that is kept of every photo."""
    cells = _Cells([3])
    given = [numbers(2 * 9, 4) for _ in range(9)]
    for rows in given:
        cells.add({"p3": rows}, 2)
    batches = [few[3] for few in cells.batches()]
    assert sum(map(len, batches)) == 18 and not any(np.shares_memory(one, two) for one in batches for two in given)
    whole = np.concatenate(batches).transpose(0, 2, 3, 1).reshape(-1, 4)
    np.testing.assert_array_equal(whole, np.concatenate(given))


EMPTIED = """
import numpy as np
from da3.runtime.backends.sessions import empty_arena, open_step_session
from da3.runtime.onnx_graph.model import Info, Model, Node
from da3.runtime.onnx_graph.writing import write_model

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("RssAnon"))

kind = np.dtype(np.float32)
nodes = [Node("Tile", ["x", "times"], ["a"]), Node("ReduceMax", ["a"], ["y"], {"keepdims": 0})]
model = Model(nodes, {"times": np.array([64 << 18])}, [Info("x", kind, (1,))], [Info("y", kind, ())], {"": 13})
session = open_step_session(write_model(model), 1)
session.run(None, {"x": np.ones(1, kind)})
del session
before = resident()
empty_arena()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_arena_is_emptied():
    """64 MiB that a closed session has worked in are the system's again."""
    done = subprocess.run([sys.executable, "-c", EMPTIED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50
