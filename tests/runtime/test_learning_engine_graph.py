"""A derived graph as TensorRT is to build it."""

import numpy as np
import pytest
from test_learning_step import CLASSES, NETWORKS, batch, deployed, double_tensors, feeds, network

from da3.runtime.backends.reference import Program
from da3.runtime.backends.sessions import open_session
from da3.runtime.learning import derive_observation, derive_step
from da3.runtime.learning.engine_graph import engine_graph, without_log_softmax
from da3.runtime.learning.fixed_batch import rows_of, rows_per_photo, with_batch
from da3.runtime.onnx_graph.model import Info, Model, Node
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model

FLOAT = np.dtype(np.float32)


def log_softmax(axis):
    infos = [[Info(name, FLOAT, ("batch", 3))] for name in "xy"]
    return Model([Node("LogSoftmax", ["x"], ["y"], {"axis": axis})], {}, *infos, {"": 13})


@pytest.mark.parametrize("axis", [1, -1])
def test_log_softmax_is_written_out_and_holds_what_is_improbable(axis):
    x = np.array([[0, 1, 2], [90, -80, 0], [-300, 5, 5]], np.float32)
    model = log_softmax(axis)
    (expected,) = Program(model, "plain").run([x])
    written = without_log_softmax(model)
    assert [node.op for node in written.nodes] == ["ReduceMax", "Sub", "Exp", "ReduceSum", "Log", "Sub"]
    (found,) = open_session(write_model(written)).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(found).all() and found.min() < -300
    half = engine_graph(model, "k", "t", 3, True, typed=True)
    (found,) = open_session(half.data).run(None, {"x": x})
    assert found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


def test_shapes_are_fixed_and_say_which_rows_are_whose():
    model = network(*NETWORKS[0][:3])
    observed = derive_observation(deployed(model))
    graph = engine_graph(observed, "observation", "title", 3, False, typed=False)
    assert (graph.name, graph.title, graph.half) == ("observation", "title", False)
    read = read_model(graph.data)
    for ends, infos, before in (
        (graph.inputs, read.inputs, observed.inputs),
        (graph.outputs, read.outputs, observed.outputs),
    ):
        assert [(end.name, end.shape) for end in ends] == [(info.name, info.shape) for info in infos]
        assert [end.rows for end in ends] == [rows_per_photo(info) for info in before]
    rows = {end.name: end.rows for end in graph.inputs + graph.outputs}
    assert rows["image"] == rows["features"] == 1 and rows["p0"] > 1
    assert {rows[name] for name in rows if name.startswith("domain:")} == {0}
    assert rows_of(4) == "16*batch"
    found = open_session(graph.data).get_outputs()
    assert {value.name: tuple(value.shape) for value in found} == {end.name: end.shape for end in graph.outputs}


@pytest.mark.parametrize("typed", [False, True])
def test_float16_where_types_are_taken_as_written(typed):
    model = network(*NETWORKS[0][:3])
    step = derive_step(deployed(model), CLASSES)
    for half in (False, True):
        graph = engine_graph(step.model, "step", "t", 3, half, typed)
        made = read_model(graph.data)
        assert {info.dtype for info in made.inputs + made.outputs} == {FLOAT}, "the borders are float32 always"
        floats = {array.dtype.name for array in made.weights.values()} - {"int64"}
        assert floats == ({"float16", "float32"} if half and typed else {"float32"})
        assert graph.half == half


def test_a_row_of_scale_0_has_no_share():
    """Whatever its photo and its target are: what fills a slice may be anything."""
    model = network(*NETWORKS[0][:3])
    step = derive_step(deployed(model), CLASSES)
    tensors, (image, labels) = double_tensors(model), batch(64, 3)
    given = feeds(step, tensors, image, labels, 1 / 2)
    given["scale"][2] = 0
    program = Program(
        step.model.replace(
            weights={n: a.astype(np.float64) if a.dtype == FLOAT else a for n, a in step.model.weights.items()}
        ),
        "step",
    )

    def run(feeds):
        found = program.run([feeds[info.name].astype(np.float64) for info in step.model.inputs])
        return dict(zip([info.name for info in step.model.outputs], found, strict=True))

    filled = run(given)
    alone = run({name: array[:2] if name in ("image", "target", "scale") else array for name, array in given.items()})
    for name, value in alone.items():
        if name != "logits":
            np.testing.assert_allclose(filled[name], value, rtol=1e-9, atol=1e-13, err_msg=name)
    given["image"][2], given["target"][2] = 5.0, 0
    again = run(given)
    for name, value in filled.items():
        if name != "logits":
            np.testing.assert_allclose(again[name], value, rtol=1e-9, atol=1e-13, err_msg=name)


def test_a_batch_of_another_number_is_another_graph():
    model = log_softmax(1)
    assert [with_batch(model, n).inputs[0].shape for n in (1, 4)] == [(1, 3), (4, 3)]
    assert model.inputs[0].shape == ("batch", 3)
