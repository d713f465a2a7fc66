"""Joined graphs against the chain of their segments, each run by ONNX Runtime."""

from types import SimpleNamespace

import numpy as np
import pytest
from graphs import checked, feeds_for, graph, ort_run

from da3.runtime.bundle.bundle import Bundle
from da3.runtime.errors import BundleError
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.records import Segment, Step, Value
from da3.runtime.schedule.layout import Subgraph, join_plan

X = {"x": ["batch", 2]}
Y = {"y": ["batch", 2]}


def chain(subgraph, bundle, values):
    """Every value of the plan that the subgraph's steps write, one segment after the other."""
    values = dict(values)
    for step in subgraph.steps:
        segment = bundle.manifest.segments[step.segment]
        feeds = {v.name: values[name] for name, v in zip(step.inputs, segment.inputs, strict=True)}
        values.update(zip(step.outputs, ort_run(bundle.read(segment.file), feeds), strict=True))
    return values


@pytest.mark.parametrize("keep", [(), ("x1", "a0", "features", "g3")])
@pytest.mark.parametrize("looks_ahead", [True, False])
def test_every_subgraph_of_a_bundle(built, looks_ahead, keep):
    with Bundle(built[0]) as bundle:
        subgraphs = join_plan(bundle.manifest, looks_ahead, keep).subgraphs
        assert max(len(subgraph.steps) for subgraph in subgraphs) > 1
        for subgraph in subgraphs:
            model = subgraph_model(subgraph, bundle)
            data = checked(write_model(model))
            for infos, values in ((model.inputs, subgraph.segment.inputs), (model.outputs, subgraph.segment.outputs)):
                assert [(i.name, i.shape) for i in infos] == [(v.name, v.shape) for v in values]
            feeds = feeds_for(model.inputs)
            given = {name: feeds[v.name] for name, v in zip(subgraph.inputs, subgraph.segment.inputs, strict=True)}
            expected = chain(subgraph, bundle, given)
            for name, found in zip(subgraph.outputs, ort_run(data, feeds), strict=True):
                np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5)


def test_a_single_step_keeps_its_segments_interface(built):
    with Bundle(built[0]) as bundle:
        subgraph = next(p for p in join_plan(bundle.manifest, True).subgraphs if p.segment.name == "block_2")
        model, source = subgraph_model(subgraph, bundle), read_model(bundle.read("backbone/block_2.onnx"))
    assert (model.inputs, model.outputs) == (source.inputs, source.outputs)
    assert write_model(model) == write_model(source)


def test_a_gate_nobody_reads_is_not_computed(built):
    with Bundle(built[0]) as bundle:
        last = join_plan(bundle.manifest, True).subgraphs[-1]
        assert [s.segment for s in last.steps] == ["head"]
        last = join_plan(bundle.manifest, False).subgraphs[-1]
        assert [s.segment for s in last.steps] == ["adaptor", "shifted", "tail", "head"]
        model = subgraph_model(last, bundle)
    assert [node.op for node in model.nodes].count("Squeeze") == 0
    assert not [name for name in model.weights if name.endswith("last")]
    assert "domain:adaptors.2.gate_weight" in [info.name for info in model.inputs]


def made(graphs, steps, inputs, outputs):
    """(subgraph, bundle) of the graphs {segment: bytes}; inputs, outputs: names of the plan -> shape."""
    segments = {}
    for name, data in graphs.items():
        model = read_model(data)
        ends = [tuple(Value(i.name, i.shape) for i in infos) for infos in (model.inputs, model.outputs)]
        segments[name] = Segment(name, name, *ends)
    bundle = SimpleNamespace(path="b", manifest=SimpleNamespace(segments=segments), read=graphs.__getitem__)
    ends = [tuple(Value(name, tuple(shape)) for name, shape in values.items()) for values in (inputs, outputs)]
    steps = tuple(Step(*step) for step in steps)
    segment = segments[steps[0].segment] if len(steps) == 1 else Segment("+".join(graphs), "", *ends)
    return Subgraph(segment, tuple(inputs), tuple(outputs), steps), bundle


SCALE = graph([("Mul", ["x", "w"], ["t"], {}), ("Relu", ["t"], ["y"], {})], X, Y, {"w": np.float32([2, 3])})
SHIFT = graph([("Add", ["x", "w"], ["t"], {}), ("Neg", ["t"], ["y"], {})], X, Y, {"w": np.float32([5, 7])})
ONES = np.ones((1, 2), np.float32)


@pytest.mark.parametrize("middle", ["m", "w", "t", "step0/t", "step", "step1/w", "step_0/t"])
def test_names_do_not_clash(middle):
    steps = [("scale", ("x",), (middle,)), ("shift", (middle,), ("y",))]
    subgraph, bundle = made({"scale": SCALE, "shift": SHIFT}, steps, X, {**Y, middle: ["batch", 2]})
    y, m = ort_run(checked(write_model(subgraph_model(subgraph, bundle))), {"x": ONES})
    assert m.tolist() == [[2, 3]] and y.tolist() == [[-7, -10]]


def test_a_segment_used_twice():
    steps = [("scale", ("x",), ("m",)), ("scale", ("m",), ("y",))]
    subgraph, bundle = made({"scale": SCALE}, steps, X, Y)
    assert ort_run(checked(write_model(subgraph_model(subgraph, bundle))), {"x": ONES})[0].tolist() == [[4, 9]]


def test_a_value_read_twice_by_one_step():
    both = graph([("Add", ["a", "b"], ["y"], {})], {"a": ["batch", 2], "b": ["batch", 2]}, Y)
    steps = [("scale", ("x",), ("m",)), ("both", ("m", "m"), ("y",))]
    subgraph, bundle = made({"scale": SCALE, "both": both}, steps, X, Y)
    assert ort_run(checked(write_model(subgraph_model(subgraph, bundle))), {"x": ONES})[0].tolist() == [[4, 6]]


def test_inputs_and_constants_handed_on():
    weights = {"k": ONES}
    on = graph([], X, {"x": ["batch", 2], "k": [1, 2]}, weights)
    steps = [("on", ("x",), ("m", "k")), ("scale", ("m",), ("y",))]
    subgraph, bundle = made({"on": on, "scale": SCALE}, steps, X, {"m": ["batch", 2], **Y, "k": [1, 2]})
    m, y, k = ort_run(checked(write_model(subgraph_model(subgraph, bundle))), {"x": 2 * ONES})
    assert (m.tolist(), y.tolist(), k.tolist()) == ([[2, 2]], [[4, 6]], [[1, 1]])


def test_an_unread_input_stays():
    steps = [("scale", ("x",), ("m",)), ("shift", ("m",), ("n",)), ("scale", ("z",), ("y",))]
    subgraph, bundle = made({"scale": SCALE, "shift": SHIFT}, steps, {**X, "z": ["batch", 2]}, Y)
    model = subgraph_model(subgraph, bundle)
    assert [info.name for info in model.inputs] == ["x", "z"] and len(model.nodes) == 2 and len(model.weights) == 1
    assert ort_run(checked(write_model(model)), {"x": ONES, "z": ONES})[0].tolist() == [[2, 3]]


def test_opsets_must_agree():
    other = graph([("Relu", ["x"], ["y"], {})], X, Y, opset=14)
    subgraph, bundle = made({"scale": SCALE, "o": other}, [("scale", ("x",), ("m",)), ("o", ("m",), ("y",))], X, Y)
    with pytest.raises(BundleError, match=r"b: subgraph scale\+o: its files use opsets 13 and 14"):
        subgraph_model(subgraph, bundle)


@pytest.mark.parametrize("number", [0, 1])
def test_a_file_unlike_the_manifest(number):
    subgraph, bundle = made({"scale": SCALE}, [("scale", ("x",), ("y",))], X, Y)
    ends = [(Value("other", ("batch", 2)),) if i == number else subgraph.segment[2 + i] for i in (0, 1)]
    bundle.manifest.segments["scale"] = Segment("scale", "scale", *ends)
    with pytest.raises(BundleError, match=r"b: scale: has inputs \['x'\] and outputs \['y'\], segment scale"):
        subgraph_model(subgraph, bundle)


def test_a_damaged_file():
    subgraph, bundle = made({"scale": SCALE}, [("scale", ("x",), ("y",))], X, Y)
    bundle.read = lambda name: SCALE[:-3]
    with pytest.raises(BundleError, match="b: scale: truncated"):
        subgraph_model(subgraph, bundle)
