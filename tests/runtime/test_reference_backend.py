"""The numpy backend: its contexts against the synthetic network, and a Runtime on it against ONNX Runtime."""

import numpy as np
import pytest
from graphs import graph
from synthetic_bundle import Backbone, file_entry, images, read_manifest, write_manifest

from da3.runtime import BackendError, Runtime
from da3.runtime.backends.reference import Program
from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.execution.choice import choose
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.schedule.layout import join_plan


@pytest.fixture
def reference(built):
    with Runtime(built[0], backend="reference") as opened:
        yield opened


@pytest.mark.parametrize("batch", [1, 2, 7, 32])
def test_a_runtime_on_it(reference, weights, batch):
    x, backbone = images(batch), Backbone()
    for name in ("flowers", "signs", "flowers"):  # with 3 and 4 classes
        for kwargs in ({}, {"gates": {1: False}}, {"gates": {2: True}}, {"force_all_blocks": True}):
            result = reference.run_batch(x, name, **kwargs)
            gates = kwargs.get("gates", {1: True, 2: True} if kwargs else None)
            logits, ran = backbone.reference(x, weights[name], gates=gates)
            assert (result.blocks == ran).all() and result.logits.dtype == np.float32
            np.testing.assert_allclose(result.logits, logits, rtol=1e-4, atol=1e-4)
            assert batch < 7 or kwargs or 0 < ran[:, 1:].mean() < 1


def test_traces_are_those_of_onnxruntime(reference, runtime):
    x, keep = images(6), ("image", "x0", "a1", "g1", "g2", "x2", "features", "logits")
    _, ours = reference.trace(x, keep, "flowers")
    _, theirs = runtime.trace(x, keep, "flowers")
    for name in keep:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4)


def test_the_callers_images_are_left_alone(reference):
    x = images(5)
    for _ in range(2):
        reference.run_batch(x, "flowers")
    np.testing.assert_array_equal(x, images(5))


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_rows_leave_other_rows_alone(built, looks_ahead):
    with Bundle(built[0]) as bundle:
        backend, layout = choose("reference"), join_plan(bundle.manifest, looks_ahead)
        backend.open(layout, bundle)
        weights = backend.weights(read_domain(bundle, "flowers"))
    whole, context = backend.context(5), backend.context(5)
    for each in (whole, context):
        each.begin(images(5))
    for call in layout.calls:
        whole.bind(call.subgraph, weights)()
        run = context.bind_rows(call.subgraph, weights)
        run(np.array([1, 4]))
        before = {name: context.read(name) for name in call.subgraph.outputs}
        run(np.array([0, 3]))
        for name, array in before.items():
            np.testing.assert_array_equal(context.read(name)[[1, 2, 4]], array[[1, 2, 4]])
            assert not array[[0, 2, 3]].any()
        run(np.array([2]))
        for name in call.subgraph.outputs:
            np.testing.assert_allclose(context.read(name), whole.read(name), rtol=1e-5, atol=1e-5)
    if layout.gates:
        np.testing.assert_array_equal(context.gate(layout.gates[-1])(), context.read(layout.gates[-1]))
    copy = context.read("logits")
    copy[:] = 7
    assert not (context.read("logits") == 7).any()


def test_a_bound_program_does_what_the_program_does(built_with_exits):
    with Bundle(built_with_exits[0]) as bundle:
        weights = read_domain(bundle, "flowers").weights
        for subgraph in join_plan(bundle.manifest, True).subgraphs:
            program = Program(subgraph_model(subgraph, bundle), "here")
            random, inputs, own = np.random.RandomState(0), {}, {}
            for name, value in zip(subgraph.inputs, subgraph.segment.inputs, strict=True):
                if name.startswith("domain:"):
                    own[value.name] = inputs[value.name] = weights[name[len("domain:") :]]
                else:
                    shape = [{"batch": 3, "classes": 3}.get(n, n) for n in value.shape]
                    inputs[value.name] = random.normal(0, 1, shape).astype(np.float32)
            call = program.bound(own)
            for _ in range(2):
                found = call([array for name, array in inputs.items() if name not in own])
                for got, expected in zip(found, program.run(list(inputs.values())), strict=True):
                    np.testing.assert_array_equal(got, expected)


def test_a_bound_program_computes_what_is_known_once():
    nodes = [("Add", ["w", "v"], ["sum"], {}), ("Mul", ["x", "sum"], ["y"], {}), ("Relu", ["sum"], ["z"], {})]
    data = graph(nodes, {"x": ["n"], "w": ["n"], "v": ["n"]}, {"y": ["n"], "z": ["n"]})
    program = Program(read_model(data), "here")
    call = program.bound({"w": np.float32([1, -5]), "v": np.float32([2, 1])})
    y, z = call([np.float32([10, 10])])
    assert y.tolist() == [30, -40] and z.tolist() == [3, 0]
    with pytest.raises(BackendError, match="here failed: "):
        call([np.zeros((5, 7), np.float32)])
    with pytest.raises(BackendError, match="here: Add failed: "):
        program.bound({"w": np.zeros(5), "v": np.zeros(7)})


def test_closed(built):
    backend = choose("reference")
    with pytest.raises(BackendError, match="closed, or was never opened"):
        backend.context(1)
    with Bundle(built[0]) as bundle:
        backend.open(join_plan(bundle.manifest, False), bundle)
    backend.context(1).close()
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.context(1)
    assert type(backend.another()) is type(backend)


def test_an_operator_it_lacks_is_told_when_opening(bundle):
    x = ["batch", 4, 8, 8]
    (bundle / "backbone" / "skip.onnx").write_bytes(
        graph([("Add", ["x", "a"], ["s"], {}), ("Sqrt", ["s"], ["y"], {})], {"x": x, "a": [*x[:2], 1, 1]}, {"y": x})
    )
    content = read_manifest(bundle)
    content["files"]["backbone/skip.onnx"] = file_entry(bundle / "backbone" / "skip.onnx")
    write_manifest(bundle, content)
    with pytest.raises(BackendError, match=r"subgraph .*skip.*: the reference backend has no operator Sqrt"):
        Runtime(bundle, backend="reference")


def test_a_graph_out_of_order():
    model = read_model(graph([("Relu", ["x"], ["t"], {}), ("Relu", ["t"], ["y"], {})], {"x": [1]}, {"y": [1]}))
    model.nodes.reverse()
    with pytest.raises(BackendError, match="p: reads t before it is written"):
        Program(model, "p")
