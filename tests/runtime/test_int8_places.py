"""Where quantisers are put: a convolution and the sum behind it end in INT8 where nothing reads floats there."""

import numpy as np
import pytest
from graphs import checked, feeds_for, graph, ort_run

from da3.runtime.backends.reference import Program
from da3.runtime.onnx_graph.int8 import to_int8
from da3.runtime.onnx_graph.int8_places import convolved, summed
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model

RNG = np.random.RandomState(0)
PICTURE, GRID = ["batch", 4, 8, 8], ["batch", 4, 2, 2]
SAME = {"pads": [1] * 4}
REPEAT = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
# A block as bundles have them: y = relu(conv(v) + (v + repeated a)); what follows reads y, and its averages.
BLOCK = [
    ("Conv", ["x", "w0", "b"], ["c"], SAME),
    ("Relu", ["c"], ["v"], {}),
    ("Resize", ["a", "", "times"], ["r"], REPEAT),
    ("Add", ["v", "r"], ["t"], {}),
    ("Conv", ["v", "w1", "b"], ["d"], SAME),
    ("Add", ["d", "t"], ["s"], {}),
    ("Relu", ["s"], ["y"], {}),
    ("AveragePool", ["y"], ["m"], {"kernel_shape": [4, 4], "strides": [4, 4]}),
    ("Mul", ["m", "b1"], ["n"], {}),
    ("Transpose", ["y"], ["u"], {"perm": [0, 2, 3, 1]}),
    ("Conv", ["y", "w2", "b"], ["z"], SAME),
]
WEIGHTS = {name: RNG.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32) for name in ("w0", "w1", "w2")}
WEIGHTS.update(b=RNG.normal(0, 1, 4).astype(np.float32), times=np.float32([1, 1, 4, 4]), b1=np.float32(2))
GIVEN = {"x": PICTURE, "a": GRID}
MADE = {"z": PICTURE, "n": GRID, "u": ["batch", 8, 8, 4]}
CONVOLUTIONS = {"x": 4.0, "v": 8.0, "y": 12.0}
OTHERS = {"a": 3.0, "t": 10.0, "m": 6.0}


def block(nodes=BLOCK, **outputs):
    return read_model(graph(nodes, GIVEN, {**MADE, **outputs}, WEIGHTS))


def reads(model, op, output):
    """The inputs of the node that gives a value, constants left out."""
    (node,) = [n for n in model.nodes if n.op == op and output in n.outputs]
    return [name for name in node.inputs if name and name not in model.weights]


def scale_of(model, quantised):
    (node,) = [n for n in model.nodes if quantised in n.outputs]
    assert node.op == "DequantizeLinear"
    return float(model.weights[node.inputs[1]])


def test_a_sum_is_int8_with_the_convolution_before_it():
    model = block()
    before = write_model(model)
    made = to_int8(model, CONVOLUTIONS, OTHERS)
    assert write_model(model) == before, "the source was changed"
    checked(write_model(made))
    # What is added to the convolution is rounded, its own result is not.
    assert reads(made, "Add", "s") == ["d", "t_back"]
    assert reads(made, "Add", "t") == ["v_back", "r_back"]
    # What is repeated is rounded where it is small; behind it the same steps change nothing.
    assert reads(made, "Resize", "r") == ["a_back"]
    assert scale_of(made, "a_back") == scale_of(made, "r_back") != scale_of(made, "t_back")
    # Whoever reads the sum reads INT8, and an average of INT8 is INT8.
    assert reads(made, "AveragePool", "m") == reads(made, "Transpose", "u") == ["y_back"]
    assert reads(made, "Mul", "n") == ["m_back"]
    for conv, value in (("c", "x_back"), ("d", "v_back"), ("z", "y_back")):
        assert reads(made, "Conv", conv)[0] == value
    # One quantiser for each value.
    quantised = [node.inputs[0] for node in made.nodes if node.op == "QuantizeLinear"]
    assert sorted(quantised) == ["a", "m", "r", "t", "v", "x", "y"]
    for name, largest in {**CONVOLUTIONS, **OTHERS}.items():
        assert largest <= 127 * scale_of(made, f"{name}_back") <= largest * 1.001


def without(values, *names):
    return {name: largest for name, largest in values.items() if name not in names}


EXTRA = [("Neg", ["y"], ["more"], {})]


@pytest.mark.parametrize(
    ("nodes", "outputs", "convolutions", "others"),
    [
        (BLOCK, {}, CONVOLUTIONS, {}),  # as measured by an older da3
        (BLOCK, {"y": PICTURE}, CONVOLUTIONS, OTHERS),  # handed out as floats
        (BLOCK + EXTRA, {"more": PICTURE}, CONVOLUTIONS, OTHERS),  # read as floats
        (BLOCK, {}, CONVOLUTIONS, without(OTHERS, "m")),  # averages would have to be floats
        (BLOCK, {}, CONVOLUTIONS, without(OTHERS, "t")),  # the residual was not measured
        (BLOCK, {}, without(CONVOLUTIONS, "v"), OTHERS),  # the convolution before the sum is not INT8
    ],
)
def test_a_sum_stays_float_otherwise(nodes, outputs, convolutions, others):
    """Then nothing but what convolutions read is rounded, as if no sum had been measured."""
    model = block(nodes, **outputs)
    made = to_int8(model, convolutions, others)
    checked(write_model(made))
    assert write_model(made) == write_model(to_int8(model, convolutions, {}))
    assert sorted(node.inputs[0] for node in made.nodes if node.op == "QuantizeLinear") == sorted(convolutions)
    assert reads(made, "Add", "s") == ["d", "t"] and reads(made, "AveragePool", "m") == ["y"]


def test_an_inner_sum_may_stay_float():
    made = to_int8(block(), CONVOLUTIONS, without(OTHERS, "a"))
    checked(write_model(made))
    assert reads(made, "Add", "t") == ["v_back", "r"] and reads(made, "Resize", "r") == ["a"]
    assert reads(made, "Add", "s") == ["d", "t_back"]


def test_what_a_graph_hands_out_as_floats_ends_a_row_of_int8():
    """Where a part of the network ends, the last sum is of floats; the sums before it are not."""
    second = [
        ("Conv", ["y", "w2", "b"], ["e"], SAME),
        ("Add", ["y", "r2"], ["t2"], {}),
        ("Resize", ["a2", "", "times"], ["r2"], REPEAT),
        ("Add", ["e", "t2"], ["end"], {}),
    ]
    nodes = [*BLOCK[:7], second[2], second[1], second[0], second[3]]
    model = read_model(graph(nodes, {**GIVEN, "a2": GRID}, {"end": PICTURE}, WEIGHTS))
    made = to_int8(model, CONVOLUTIONS, {**OTHERS, "a2": 3.0, "t2": 15.0})
    checked(write_model(made))
    assert reads(made, "Add", "s") == ["d", "t_back"]
    assert reads(made, "Add", "t2") == ["y_back", "r2"] and reads(made, "Resize", "r2") == ["a2"]
    assert reads(made, "Add", "end") == ["e", "t2"]


def test_of_two_convolutions_the_first_is_the_residual():
    """A projection beside a branch: one kernel adds to the branch's last convolution what the other gave."""
    nodes = [
        ("Conv", ["x", "w0", "b"], ["shortcut"], SAME),
        ("Conv", ["x", "w1", "b"], ["branch"], SAME),
        ("Add", ["branch", "shortcut"], ["y"], {}),
        ("Conv", ["y", "w2", "b"], ["z"], SAME),
    ]
    for inputs in (["branch", "shortcut"], ["shortcut", "branch"]):
        nodes[2] = ("Add", inputs, ["y"], {})
        model = read_model(graph(nodes, {"x": PICTURE}, {"z": PICTURE}, WEIGHTS))
        made = to_int8(model, {"x": 4.0, "y": 9.0}, {"shortcut": 5.0})
        assert sorted(reads(made, "Add", "y")) == ["branch", "shortcut_back"]
        assert summed(read_model(graph(nodes[:3], {"x": PICTURE}, {"y": PICTURE}, WEIGHTS))) == {"shortcut"}


@pytest.mark.parametrize("pairs", [False, True])
def test_rounded_sums_are_close_and_the_same_everywhere(pairs):
    model = block()
    values = dict.fromkeys([*CONVOLUTIONS, *OTHERS], None)
    feeds = feeds_for(model.inputs, batch=4)
    shown = read_model(graph(BLOCK, GIVEN, {**MADE, "v": PICTURE, "y": PICTURE, "t": PICTURE, "m": GRID}, WEIGHTS))
    found = dict(zip([info.name for info in shown.outputs], ort_run(write_model(shown), feeds), strict=True))
    largest = {name: float(np.abs({**found, **feeds}[name]).max()) for name in values}
    made = to_int8(model, without(largest, *OTHERS), without(largest, *CONVOLUTIONS), pairs)
    names = [info.name for info in made.outputs]
    by_ort = dict(zip(names, ort_run(write_model(made), feeds), strict=True))
    by_numpy = dict(zip(names, Program(made, "here").run(list(feeds.values())), strict=True))
    for name in names:
        scale = np.abs(found[name]).max()
        assert 0 < np.abs(by_ort[name] - found[name]).max() < 0.1 * scale
        np.testing.assert_allclose(by_numpy[name], by_ort[name], atol=0.03 * scale)
        assert np.abs(by_numpy[name] - by_ort[name]).mean() < 0.002 * scale


def test_what_must_be_measured():
    nodes = [node for node in BLOCK if node[2] not in (["m"], ["n"], ["u"], ["z"])]
    model = read_model(graph(nodes, GIVEN, {"y": PICTURE}, WEIGHTS))
    assert convolved(model) == {"x": False, "v": False}
    assert summed(model) == {"v", "a", "t"}
    pool = ("AveragePool", ["x"], ["m"], {"kernel_shape": [4, 4], "strides": [4, 4]})
    pooled = read_model(graph([pool], {"x": PICTURE}, {"m": GRID}))
    assert summed(pooled) == {"m"} and convolved(pooled) == {}
    small = [("MatMul", ["p", "q"], ["k"], {}), ("Mul", ["p", "q"], ["l"], {}), ("Add", ["k", "l"], ["y"], {})]
    square = {name: [4, 4] for name in "pq"}
    assert summed(read_model(graph(small, square, {"y": [4, 4]}))) == set(), "a classifier's sums are no pictures"
