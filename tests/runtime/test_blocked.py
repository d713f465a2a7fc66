"""Borders in the layout of ONNX Runtime's kernels: the same numbers, fewer changes of layout."""

import numpy as np
import pytest
from graphs import graph

from da3.runtime import Runtime
from da3.runtime.backends import blocked, graph_making
from da3.runtime.backends.blocked import block_borders
from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model


def run(model, feeds, optimised):
    session = open_session(write_model(model), optimised=optimised)
    return dict(zip([o.name for o in model.outputs], session.run(None, feeds), strict=True))


@pytest.fixture
def optimise(tmp_path):
    def call(data):
        path = str(tmp_path / "optimised.onnx")
        open_session(data, save=path)
        with open(path, "rb") as file:
            return file.read()

    return call


def network(channels, rng, factor=2):
    """A stem and a block with an added small picture, as two subgraphs that hand over x and y: see export/graph.py."""
    kernel = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    weights = {
        "k0": rng.normal(0, 1, (channels, 3, 3, 3)),
        "b0": rng.normal(0, 1, channels),
        "k1": rng.normal(0, 0.1, (channels, channels, 3, 3)),
        "b1": rng.normal(0, 1, channels),
        "w": rng.normal(0, 1, (channels, channels)),
        "c": rng.normal(0, 1, channels),
    }
    weights = {k: v.astype(np.float32) for k, v in weights.items()}
    side = 8 // factor
    shapes = {"rows": np.array([-1, channels]), "picture": np.array([-1, side, side, channels])}
    nodes = [
        ("AveragePool", ["x"], ["p"], {"kernel_shape": [factor] * 2, "strides": [factor] * 2}),
        ("Transpose", ["p"], ["t"], {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["t", "rows"], ["r"], {}),
        ("Gemm", ["r", "w", "c"], ["h"], {"transB": 1}),
        ("Reshape", ["h", "picture"], ["q"], {}),
        ("Transpose", ["q"], ["a"], {"perm": [0, 3, 1, 2]}),
    ]
    small = "a"
    if factor > 1:
        resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        nodes.append(("Resize", ["a", "", "scales"], ["u"], resize))
        shapes["scales"], small = np.array([1, 1, factor, factor], np.float32), "u"
    nodes += [
        ("Add", ["x", small], ["s"], {}),
        ("Conv", ["x", "k1", "b1"], ["f"], kernel),
        ("Add", ["f", "s"], ["sum"], {}),
        ("Relu", ["sum"], ["y"], {}),
    ]
    x = [1, channels, 8, 8]
    first = graph(
        [("Conv", ["image", "k0", "b0"], ["z"], kernel), ("Relu", ["z"], ["x"], {})],
        {"image": [1, 3, 8, 8]},
        {"x": x},
        {k: weights[k] for k in ("k0", "b0")},
    )
    second = graph(nodes, {"x": x}, {"y": x}, dict(shapes, **{k: weights[k] for k in ("k1", "b1", "w", "c")}))
    third = graph([("GlobalAveragePool", ["y"], ["m"], {})], {"y": x}, {"m": [1, channels, 1, 1]}, {})
    return [read_model(data) for data in (first, second, third)]


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("channels", [16, 24, 32, 8, 3])
def test_the_same_numbers(channels, factor, optimise):
    rng = np.random.RandomState(0)
    models = network(channels, rng, factor)
    before = [write_model(model) for model in models]
    image = {"image": rng.normal(0, 1, (1, 3, 8, 8)).astype(np.float32)}
    expected, found = dict(image), dict(image)
    for model in models:
        expected.update(run(model, {i.name: expected[i.name] for i in model.inputs}, False))
    result = block_borders(models, {"x", "y"}, optimise)
    assert [write_model(model) for model in models] == before, "the models given were changed"
    if result is None:
        if block_borders(network(32, rng), {"x", "y"}, optimise) is None:
            pytest.skip("ONNX Runtime makes no blocks on this CPU")
        assert channels < 16
        return
    for model in result.models:
        found.update(run(model, {i.name: found[i.name] for i in model.inputs}, True))
    np.testing.assert_allclose(found["m"], expected["m"], rtol=1e-4, atol=1e-4)
    if channels >= 16:
        assert set(result.shapes) == {"x", "y"}
        assert all(shape[1] >= channels and shape[1] % 8 == 0 for shape in result.shapes.values())
        left = [node.op for model in result.models for node in model.nodes]
        assert left.count("ReorderOutput") <= 2  # before the rows, and for the mean
        assert not [node for model in result.models for node in model.nodes if node.name.startswith("da3_border")]


def test_only_what_may_cross_changes(optimise):
    models = network(32, np.random.RandomState(0))
    result = block_borders(models, {"x"}, optimise)
    if result is None:
        pytest.skip("ONNX Runtime makes no blocks on this CPU")
    assert set(result.shapes) == {"x"}


def test_without_borders_what_an_adaptor_adds_is_in_blocks(optimise):
    """A subgraph by itself, as a network is where nobody leaves: nothing crosses, and no mark is left."""
    rng = np.random.RandomState(0)
    _, model, _ = network(32, rng, factor=1)
    result = block_borders([model], set(), optimise)
    if result is None:
        pytest.skip("ONNX Runtime makes no blocks on this CPU")
    assert result.shapes == {}
    (found,) = result.models
    assert not any(node.name.startswith("da3_border") for node in found.nodes)
    image = {"x": rng.normal(0, 1, (1, 32, 8, 8)).astype(np.float32)}
    expected = run(model, image, False)["y"]
    np.testing.assert_allclose(run(found, image, True)["y"], expected, rtol=1e-4, atol=1e-4)


def test_what_has_nothing_to_keep_in_blocks(optimise):
    models = network(3, np.random.RandomState(0))
    assert block_borders(models[:1], set(), optimise) is None


def test_an_onnxruntime_that_does_otherwise_costs_nothing_but_speed(built, monkeypatch):
    x = np.random.RandomState(0).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)

    def fresh():  # a start that makes its graphs
        return Bundle(built[0], may_store=False)

    with Runtime(fresh()) as runtime:
        expected = runtime.run_batch(x, "flowers").logits
    monkeypatch.setattr(blocked, "_DOMAIN", "some.other.domain")
    with Runtime(fresh()) as runtime:
        np.testing.assert_allclose(runtime.run_batch(x, "flowers").logits, expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(graph_making, "block_borders", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with (
        pytest.warns(RuntimeWarning, match="subgraphs keep their own memory layout, which is slower: disk full"),
        Runtime(fresh()) as runtime,
    ):
        np.testing.assert_allclose(runtime.run_batch(x, "flowers").logits, expected, rtol=1e-4, atol=1e-4)
