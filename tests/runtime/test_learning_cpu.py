"""The graph of a training step as ONNX Runtime runs it on this CPU: the same numbers, in blocks, in the order meant."""

import numpy as np
import pytest
from test_learning_step import CLASSES, IDS, NETWORKS, batch, deployed, double_tensors, feeds, network

from da3.runtime.backends.blocked_elementwise import DOMAIN, elementwise_in_blocks
from da3.runtime.backends.node_order import in_order_of
from da3.runtime.backends.sessions import open_session
from da3.runtime.backends.training_graph import block_size, for_this_cpu
from da3.runtime.learning import derive_step
from da3.runtime.onnx_graph.model import Info, Model, Node
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model

KIND = np.dtype(np.float32)


def in_blocks():
    """Whether ONNX Runtime computes in blocks on this CPU."""
    try:
        return block_size() > 1
    except Exception:
        return False


needs_blocks = pytest.mark.skipif(not in_blocks(), reason="this CPU's ONNX Runtime does not compute in blocks")


def answers(session, given):
    names = [value.name for value in session.get_outputs()]
    found = session.run(names, {name: array.astype(np.float32) for name, array in given.items()})
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("case", NETWORKS, ids=IDS)
def test_the_same_gradients(case):
    _, _, size, closed = case
    model = network(*case)
    step = derive_step(deployed(model), CLASSES, closed)
    image, labels = batch(size)
    given = feeds(step, double_tensors(model), image, labels, 1 / 3)
    expected = answers(open_session(write_model(step.model)), given)
    data = for_this_cpu(step.model)
    found = answers(open_session(data, as_written=True), given)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        errors = np.abs(found[name] - value) / np.abs(value).max()
        assert np.percentile(errors, 95) <= 1e-4 and errors.max() <= 0.1, name


def test_a_cpu_without_blocks_gets_the_same(monkeypatch):
    """An arm64's, say: that nothing came to lie in blocks shows when the model's weights are gone already."""

    def no_blocks(models, crossing, optimise):
        optimise(write_model(models[0]))

    monkeypatch.setattr("da3.runtime.backends.training_graph.block_borders", no_blocks)
    case = ("mobilenet_v2", 0.25, 32, ())
    model = network(*case)
    step, spent = (derive_step(deployed(model), CLASSES, ()) for _ in range(2))
    image, labels = batch(32)
    given = feeds(step, double_tensors(model), image, labels, 1 / 3)
    expected = answers(open_session(write_model(step.model)), given)
    data = for_this_cpu(spent.model, spend=True)
    assert not spent.model.weights
    found = answers(open_session(data, as_written=True), given)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-4 * np.abs(value).max() + 1e-6, name


@needs_blocks
def test_full_size_masks_do_not_leave_the_blocks(tmp_path):
    """What changes its layout between a convolution and the one behind it would take a fifth of a step."""
    step = derive_step(deployed(network("mobilenet_v2", 1.0, 64)), CLASSES).model
    made = read_model(for_this_cpu(step))
    open_session(write_model(step), save=str(tmp_path / "plain.onnx"))
    plain = read_model((tmp_path / "plain.onnx").read_bytes())
    reorders = [sum(n.domain == DOMAIN and n.op.startswith("Reorder") for n in m.nodes) for m in (plain, made)]
    assert reorders[1] < 0.5 * reorders[0]
    writers = {name: node for node in made.nodes for name in node.outputs}
    masked = [n for n in made.nodes if n.op == "Greater" and writers[n.inputs[0]].op == "Conv"]
    assert len(masked) >= 30 and all(writers[n.inputs[0]].domain == DOMAIN for n in masked)


def wide(nodes, weights, x=32, y=32, opsets=None):
    infos = [[Info(name, KIND, ("batch", c, 4, 4))] for name, c in (("x", x), ("y", y))]
    return Model(nodes, weights, *infos, opsets or {"": 13, DOMAIN: 1})


def out_of_blocks(name, result, channels=32):
    return Node("ReorderOutput", [name], [result], {"channels": channels, "channels_last": 0}, domain=DOMAIN)


def into_blocks(name, result):
    return Node("ReorderInput", [name], [result], {"channels_last": 0}, domain=DOMAIN)


@needs_blocks
@pytest.mark.parametrize("channels", [32, 24])
def test_what_is_rewritten_gives_the_same(channels):
    """Numbers that a constant meets, two values, a value that is read both ways, and a value that is an output."""
    nodes = [
        into_blocks("x", "b0"),
        out_of_blocks("b0", "p0", channels),
        Node("Sub", ["p0", "three"], ["p1"]),
        Node("Relu", ["p1"], ["p2"]),
        Node("Mul", ["p2", "p0"], ["p3"]),
        Node("Add", ["p3", "plain"], ["p4"]),  # meets what is not in blocks
        into_blocks("p3", "b3"),
        into_blocks("p4", "b4"),
        Node("Add", ["b3", "b4"], ["b5"]),
        out_of_blocks("b5", "p5", channels),
        Node("Greater", ["p5", "three"], ["p6"]),
        Node("Cast", ["p6"], ["p7"], {"to": 1}),
        Node("Mul", ["p7", "p5"], ["y"]),
    ]
    weights = {"three": np.array(0.3, np.float32), "plain": np.arange(channels, dtype=np.float32).reshape(-1, 1, 1)}
    model = wide(nodes, weights, channels, channels)
    made = elementwise_in_blocks(model, block_size())
    x = np.random.RandomState(0).normal(0, 1, (2, channels, 4, 4)).astype(np.float32)
    expected, found = (open_session(write_model(m), optimised=True).run(None, {"x": x})[0] for m in (model, made))
    np.testing.assert_array_equal(found, expected)
    count = [sum(n.op.startswith("Reorder") for n in m.nodes) for m in (model, made)]
    assert count == [5, 4]  # p0 is not written, nor read back p3, but p3 is for the sum, and y for its reader


@needs_blocks
def test_one_cell_that_meets_many_leaves_the_blocks():
    nodes = [
        into_blocks("x", "b0"),
        Node("GlobalAveragePool", ["b0"], ["b1"], domain=DOMAIN),
        out_of_blocks("b0", "p0"),
        out_of_blocks("b1", "p1"),
        Node("Mul", ["p0", "p1"], ["y"]),
    ]
    model = wide(nodes, {})
    made = elementwise_in_blocks(model, block_size())
    x = np.random.RandomState(0).normal(0, 1, (2, 32, 4, 4)).astype(np.float32)
    expected, found = (open_session(write_model(m), optimised=True).run(None, {"x": x})[0] for m in (model, made))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, x * x.mean((2, 3), keepdims=True), rtol=1e-4, atol=1e-6)


@needs_blocks
@pytest.mark.parametrize("channels", [32, 24])
def test_phases_are_put_into_place_block_by_block(channels):
    """Where the channels fill whole blocks; else as they were."""
    size = block_size()
    nodes = [
        into_blocks("x", "b0"),
        out_of_blocks("b0", "p0", 4 * channels),
        Node("Reshape", ["p0", "parts"], ["p1"]),
        Node("Transpose", ["p1"], ["p2"], {"perm": [0, 3, 4, 1, 5, 2]}),
        Node("Reshape", ["p2", "whole"], ["p3"]),
        Node("Relu", ["p3"], ["y"]),
    ]
    weights = {"parts": np.array([-1, 2, 2, channels, 4, 4]), "whole": np.array([-1, channels, 8, 8])}
    infos = [[Info("x", KIND, ("batch", 4 * channels, 4, 4))], [Info("y", KIND, ("batch", channels, 8, 8))]]
    model = Model(nodes, weights, *infos, {"": 13, DOMAIN: 1})
    made = elementwise_in_blocks(model, size)
    x = np.random.RandomState(0).normal(0, 1, (2, 4 * channels, 4, 4)).astype(np.float32)
    expected, found = (open_session(write_model(m), optimised=True).run(None, {"x": x})[0] for m in (model, made))
    np.testing.assert_array_equal(found, expected)
    perms = [node.attributes["perm"] for node in made.nodes if node.op == "Transpose"]
    assert (perms == [[0, 3, 4, 1, 5, 2, 6]]) == (channels % size == 0)


def test_order():
    """Nodes stand where those were that they do the work of; new ones come before their readers."""
    original = Model(
        [
            Node(op, [x], [y], name=y)
            for op, x, y in (("A", "x", "a"), ("B", "a", "b"), ("C", "a", "c"), ("D", "c", "d"))
        ]
        + [Node("E", ["b", "d"], ["e"], name="e")],
        {},
        [Info("x", KIND, ())],
        [Info("e", KIND, ())],
        {"": 13},
    )
    nodes = [
        Node("A", ["x"], ["a'"], name="a_nchwc"),  # recognised by its name, which the optimiser has made longer
        Node("New", ["a'"], ["n"]),  # read by c
        Node("C", ["n"], ["c"]),
        Node("D", ["c"], ["d"]),
        Node("B", ["a'"], ["b"]),
        Node("E", ["b", "d"], ["e"]),
    ]
    ordered = in_order_of(original.replace(nodes), original)
    assert [node.op for node in ordered.nodes] == ["A", "B", "New", "C", "D", "E"]
