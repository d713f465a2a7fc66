"""The gradient of each operator, against differences of what the operator gives, in float64."""

import numpy as np
import pytest

from da3.runtime.backends.reference import Program
from da3.runtime.errors import BundleError
from da3.runtime.learning.gradients import RULES
from da3.runtime.learning.reverse import add_gradients
from da3.runtime.learning.shapes import ANY
from da3.runtime.learning.writing import GraphWriter
from da3.runtime.onnx_graph.model import Info, Model, Node

RNG = np.random.RandomState(0)
STEP = 1e-6


def normal(*shape):
    return RNG.normal(0, 1, shape)


def in_double(weights):
    return {n: w.astype(np.float64) if w.dtype == np.float32 else w for n, w in weights.items()}


def differentiated(op, inputs, attributes, moved):
    """(y by inputs, dx by inputs and dy) of one node; inputs that are not `moved` are constants."""
    names = ["" if value is None else f"i{n}" for n, value in enumerate(inputs)]
    arrays = {name: value for name, value in zip(names, inputs, strict=True) if name}
    given = [name for name in arrays if name in moved]
    infos = [Info(name, np.dtype(np.float64), arrays[name].shape) for name in given]
    node = Node(op, names, ["y"], attributes)
    weights = {name: array for name, array in arrays.items() if name not in moved}
    model = Model([node], weights, infos, [Info("y", np.dtype(np.float64), ())], {"": 13})
    shapes = {name: arrays[name].shape for name in given}
    for name, shape in shapes.items():
        if len(shape) > 1 and shape[0] == inputs[0].shape[0]:
            shapes[name] = (ANY, *shape[1:])
    out = GraphWriter(model, shapes)
    gradients = add_gradients(out, {"y": "dy"}, given)
    ends = [Info(gradients[name], np.dtype(np.float64), ()) for name in given]
    both = model.replace(out.finished(), in_double(out.weights), [*infos, Info("dy", np.dtype(np.float64), ())], ends)
    forward = Program(model.replace(weights=in_double(weights)), "forward")
    values = [arrays[name] for name in given]
    return forward, Program(both, "backward"), values, both


def check(op, inputs, attributes=None, moved=("i0",)):
    forward, backward, values, model = differentiated(op, inputs, attributes or {}, moved)
    dy = normal(*forward.run(values)[0].shape)
    found = backward.run([*values, dy])
    assert not any(node.op == "ConvTranspose" for node in model.nodes)
    for place, (value, gradient) in enumerate(zip(values, found, strict=True)):
        assert gradient.shape == value.shape
        expected = np.empty(value.shape)
        for at in np.ndindex(*value.shape):
            ends = []
            for step in (STEP, -STEP):
                changed = [v.copy() for v in values]
                changed[place][at] += step
                ends.append((forward.run(changed)[0] * dy).sum())
            expected[at] = (ends[0] - ends[1]) / (2 * STEP)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)
    return model


CONVOLUTIONS = [
    # channels in and out, group, kernel, other attributes; height and width
    (3, 4, 1, (1, 1), {}, (4, 5)),
    (3, 4, 1, (3, 3), {"pads": [1, 1, 1, 1]}, (5, 4)),
    (3, 4, 1, (3, 2), {"pads": [2, 0, 1, 1]}, (5, 4)),
    (4, 4, 4, (3, 3), {"pads": [1, 1, 1, 1]}, (4, 5)),
    (4, 4, 4, (5, 5), {"pads": [2, 2, 2, 2]}, (4, 5)),
    (4, 6, 2, (3, 3), {}, (4, 5)),
    (2, 6, 2, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, (6, 4)),
    (4, 4, 4, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, (6, 4)),
    (4, 4, 4, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, (7, 5)),
    (4, 4, 4, (3, 3), {"strides": [2, 2], "pads": [0, 0, 1, 1]}, (6, 4)),
    (4, 4, 4, (5, 5), {"strides": [2, 2], "pads": [2, 2, 2, 2]}, (6, 4)),
    (4, 4, 4, (5, 5), {"strides": [2, 2], "pads": [1, 1, 2, 2]}, (6, 4)),
    (3, 4, 1, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}, (6, 4)),
    (3, 4, 1, (1, 1), {"strides": [2, 2]}, (6, 4)),
    (3, 4, 1, (1, 1), {"strides": [2, 2]}, (5, 7)),
    (3, 4, 1, (5, 3), {"strides": [3, 3], "pads": [1, 0, 2, 0]}, (7, 8)),
]


@pytest.mark.parametrize("cin, cout, group, kernel, attributes, size", CONVOLUTIONS)
def test_convolutions(cin, cout, group, kernel, attributes, size):
    check(
        "Conv",
        [normal(2, cin, *size), normal(cout, cin // group, *kernel), normal(cout)],
        {**attributes, "group": group},
    )


MODES = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
ints = np.int64


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "moved"),
    [
        ("Add", [normal(2, 3, 4), normal(2, 3, 4)], {}, ("i0", "i1")),
        ("Add", [normal(2, 3, 4), normal(3, 1)], {}, ("i0",)),
        ("Sub", [normal(2, 3), normal(3)], {}, ("i0",)),
        ("Sub", [normal(3), normal(2, 3)], {}, ("i1",)),
        ("Mul", [normal(2, 3), np.array(0.5)], {}, ("i0",)),
        ("Mul", [normal(2, 3), normal(2, 3)], {}, ("i0", "i1")),
        ("Identity", [normal(2, 3)], {}, ("i0",)),
        ("Relu", [normal(4, 5)], {}, ("i0",)),
        ("Clip", [normal(4, 5) * 9, np.array(0.0), np.array(6.0)], {}, ("i0",)),
        ("Clip", [normal(4, 5) * 9, np.array([-1.0]), np.array([5.0])], {}, ("i0",)),
        ("Gemm", [normal(4, 3), normal(5, 3), normal(5)], {"transB": 1}, ("i0", "i1", "i2")),
        ("Gemm", [normal(4, 3), normal(5, 3), normal(4, 5)], {"transB": 1}, ("i0", "i1", "i2")),
        ("Gemm", [normal(4, 3), normal(5, 3)], {"transB": 1}, ("i0", "i1")),
        ("AveragePool", [normal(2, 3, 6, 4)], {"kernel_shape": [2, 2], "strides": [2, 2]}, ("i0",)),
        ("AveragePool", [normal(2, 3, 6, 4)], {"kernel_shape": [3, 2], "strides": [3, 2]}, ("i0",)),
        ("AveragePool", [normal(2, 3, 5, 4)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, ("i0",)),
        ("AveragePool", [normal(2, 3, 2, 1)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, ("i0",)),
        ("AveragePool", [normal(2, 3, 5, 4)], {"kernel_shape": [3, 1], "pads": [1, 0, 1, 0]}, ("i0",)),
        ("GlobalAveragePool", [normal(2, 3, 4, 5)], {}, ("i0",)),
        ("Resize", [normal(2, 3, 2, 3), None, np.float32([1, 1, 4, 4])], MODES, ("i0",)),
        ("Resize", [normal(2, 3, 2, 3), None, np.float32([1, 1, 2, 3])], MODES, ("i0",)),
        ("Reshape", [normal(2, 6), ints([-1, 3])], {}, ("i0",)),
        ("Flatten", [normal(2, 3, 4)], {}, ("i0",)),
        ("Transpose", [normal(2, 3, 4, 5)], {"perm": [0, 2, 3, 1]}, ("i0",)),
        ("Transpose", [normal(2, 3, 4, 5)], {"perm": [0, 3, 1, 2]}, ("i0",)),
        ("Concat", [normal(2, 3), normal(2, 4), normal(2, 1)], {"axis": 1}, ("i0", "i1", "i2")),
        ("ReduceMean", [normal(2, 4, 3)], {"axes": [1], "keepdims": 0}, ("i0",)),
        ("ReduceMax", [normal(2, 4, 3)], {"axes": [1], "keepdims": 0}, ("i0",)),
        ("ReduceMax", [normal(2, 4, 3)], {"axes": [1], "keepdims": 1}, ("i0",)),
    ],
)
def test_operators(op, inputs, attributes, moved):
    check(op, inputs, attributes, moved)


def test_every_rule_is_tested():
    mark = next(m for m in test_operators.pytestmark if m.name == "parametrize")
    assert {case[0] for case in mark.args[1]} | {"Conv"} == set(RULES)


def test_masks_at_and_beside_the_limits():
    """No gradient at a limit, as in PyTorch, and all of it one number further in."""
    inside = [np.nextafter(0.0, 1), 1e-20, 3, np.nextafter(6.0, 0)]
    x = np.array([[-1, -1e-20, 0, *inside, 6, 7]]).T
    for op, limits, expected in (
        ("Clip", [np.array(0.0), np.array(6.0)], [0, 0, 0, 1, 1, 1, 1, 0, 0]),
        ("Relu", [], [0, 0, 0, 1, 1, 1, 1, 1, 1]),
    ):
        _, backward, values, _ = differentiated(op, [x, *limits], {}, ("i0",))
        (found,) = backward.run([*values, np.full((9, 1), -5.0)])
        assert found.ravel().tolist() == [-5 * n for n in expected]


def test_only_masks_are_kept_for_the_backward_pass():
    """They are made right behind what they are made of."""
    _, _, _, model = differentiated("Clip", [normal(4, 5), np.array(0.0), np.array(6.0)], {}, ("i0",))
    assert [node.op for node in model.nodes] == ["Clip", "Greater", "Less", "And", "Cast", "Mul"]


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = np.array([[[1.0], [2.0], [2.0], [0.0]]])
    _, backward, values, _ = differentiated("ReduceMax", [x], {"axes": [1], "keepdims": 0}, ("i0",))
    (found,) = backward.run([*values, np.array([[5.0]])])
    assert found.ravel().tolist() == [0, 5, 0, 0]


def test_only_what_is_wanted_is_computed():
    """A value that no wanted one reaches gets no gradient, and a sum of several ways is one."""
    nodes = [
        Node("Relu", ["x"], ["a"]),
        Node("Gemm", ["a", "w"], ["b"], {"transB": 1}),
        Node("Relu", ["b"], ["c"]),
        Node("Add", ["b", "c"], ["d"]),
        Node("MaxPool", ["unread"], ["e"], {"kernel_shape": [2, 2]}),
    ]
    kind = np.dtype(np.float64)
    infos = [Info(name, kind, ()) for name in ("x", "w", "unread")]
    shapes = {"x": (ANY, 3), "w": (2, 3), "unread": (ANY, 1, 4, 4)}
    out = GraphWriter(Model(nodes, {}, infos, [], {"": 13}), shapes)
    gradients = add_gradients(out, {"d": "dd"}, ["w"])
    added = out.nodes[len(nodes) :]
    assert [node.op for node in added] == ["Cast", "Mul", "Add", "Gemm"]
    assert gradients == {"w": added[-1].outputs[0]} and added[-1].inputs[1] == "a"


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (("Add", {}, [(ANY, 3), (3,)], "i1"), "Add (node y) repeats an input"),
        (("Gemm", {"transA": 1}, [(3, 4), (3, 5)], "i0"), "Gemm y is not a b^T"),
        (("MaxPool", {"kernel_shape": [2, 2]}, [(ANY, 1, 4, 4)], "i0"), "operator MaxPool has no gradient"),
        (("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2]}, [(ANY, 1, 5, 5)], "i0"), "AveragePool y"),
        (("Conv", {"dilations": [2, 2]}, [(ANY, 1, 5, 5), (1, 1, 3, 3)], "i0"), "Conv y"),
        (("Conv", {"strides": [3, 3], "pads": [1, 1, 1, 1]}, [(ANY, 1, 5, 5), (1, 1, 3, 3)], "i0"), "the kernel i1"),
        (("ReduceMax", {"axes": [0, 1]}, [(ANY, 3)], "i0"), "ReduceMax y is not over one axis"),
        (("Softplus", {}, [(ANY, 3)], "i0"), "operator Softplus (node y): bundles are not written with this operator"),
    ],
)
def test_what_is_refused(node, words):
    op, attributes, shapes, wanted = node
    names = [f"i{n}" for n in range(len(shapes))]
    weights = {n: np.ones(s) for n, s in zip(names, shapes, strict=True) if op == "Conv" and n != wanted}
    infos = [Info(name, np.dtype(np.float32), ()) for name in names if name not in weights]
    model = Model([Node(op, names, ["y"], attributes)], weights, infos, [], {"": 13})
    with pytest.raises(BundleError) as caught:
        add_gradients(GraphWriter(model, dict(zip(names, shapes, strict=True))), {"y": "dy"}, [wanted])
    assert words in str(caught.value) and str(caught.value).endswith("learn with `da3 train`")


def test_a_wanted_tensor_that_the_loss_does_not_read():
    model = Model([Node("Relu", ["x"], ["y"])], {}, [Info("x", np.dtype(np.float32), ())], [], {"": 13})
    with pytest.raises(BundleError, match="^the loss does not depend on w: export the bundle again$"):
        add_gradients(GraphWriter(model, {"x": (ANY, 3), "w": (3,)}), {"y": "dy"}, ["x", "w"])
