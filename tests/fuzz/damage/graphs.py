"""ONNX files: fields of their messages changed on the wire, and nodes that cost much, say little, or reach outside."""

import copy
import struct
from itertools import pairwise

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from . import plain
from .texts import texts

# What is inside which field of which message (onnx.proto).
_INSIDE = {
    "model": {7: "graph", 8: "opset", 14: "pair"},
    "graph": {1: "node", 5: "tensor", 11: "info", 12: "info", 13: "info"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor"},
    "tensor": {13: "pair"},
    "info": {2: "type"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "dimension"},
}
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_MOST_FIELDS = 2_000_000


def damaged(data, rng):
    """The file with one to three fields of its messages changed; bytes elsewhere are as they were."""
    try:
        tree = _parsed(data, "model")
    except (ValueError, IndexError):
        return plain.damaged(data, rng)
    if rng.random() < 0.02:
        depth = rng.choice((100, 1000, 20_000))
        return data + _nested(depth), f"a graph in a graph, {depth} times"
    done = [_change(tree, rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    if _count(tree, {}) > _MOST_FIELDS:  # many of many of many: the file would take longer to make than to read
        return plain.damaged(data, rng)
    return _joined(tree), ", ".join(done)


def _count(tree, known):
    """How many fields the tree has when it is written; `known` has those of lists by identity, which may repeat."""
    if id(tree) not in known:
        known[id(tree)] = sum(_count(value, known) if isinstance(value, list) else 1 for _, _, value in tree)
    return known[id(tree)]


def _nested(depth):
    """A graph whose node has an attribute that is a graph, and so on. Fields of a message may come in pieces, so it
    can stand behind a whole file."""
    heads, length = [], 0
    for field in (6, 5, 1) * depth + (7,):
        heads.append(_as_varint(field << 3 | _BYTES) + _as_varint(length))
        length += len(heads[-1])
    return b"".join(reversed(heads))


def _parsed(data, kind):
    """[[field, wire type, value or a list of the same]]"""
    at, found = 0, []
    while at < len(data):
        tag, at = _varint(data, at)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
            inner = _INSIDE.get(kind, {}).get(field)
            if inner is not None:
                value = _parsed(value, inner)
        elif wire in (_EIGHT, _FOUR):
            length = 8 if wire == _EIGHT else 4
            value, at = data[at : at + length], at + length
        else:
            raise ValueError("no message")
        found.append([field, wire, value])
    return found


def _joined(tree):
    parts = []
    for field, wire, value in tree:
        parts.append(_as_varint(field << 3 | wire))
        if wire == _VARINT:
            parts.append(_as_varint(value))
        else:
            body = _joined(value) if isinstance(value, list) else value
            parts += [_as_varint(len(body)) if wire == _BYTES else b"", body]
    return b"".join(parts)


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _as_varint(value):
    value %= 2**64
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])


def _all(tree, path=()):
    for number, (_, _, value) in enumerate(tree):
        yield tree, number, path
        if isinstance(value, list):
            yield from _all(value, (*path, number))


def _change(tree, rng):
    found = list(_all(tree))
    if not found:
        return "nothing"
    owner, number, path = rng.choice(found)
    field, wire, value = owner[number]
    where = f"field {field} at depth {len(path)}"
    kind = rng.choice(("value", "value", "value", "value", "gone", "twice", "swapped", "many", "moved", "other"))
    if kind == "gone":
        del owner[number]
    elif kind == "twice":
        owner.insert(number, [field, wire, value])
    elif kind == "many":
        owner[number:number] = [[field, wire, value]] * rng.choice((3, 100, 2000))
    elif kind == "swapped":
        other = rng.randrange(len(owner))
        owner[number], owner[other] = owner[other], owner[number]
    elif kind == "moved":
        owner[number] = [rng.choice((1, 2, 3, 5, 7, 9, 14, 15, 25, 2**28)), wire, value]
    elif kind == "other":
        other, at, _ = rng.choice(found)
        owner[number] = [field, *copy.deepcopy(other[at][1:])]
    else:
        owner[number] = [field, wire, _value(wire, value, rng)]
    return f"{where} {kind}"


def _value(wire, value, rng):
    if wire == _VARINT:
        return rng.choice((rng.choice(plain.NUMBERS + plain.NUMBERS_64), value + 1, value - 1, rng.randrange(30)))
    if wire in (_EIGHT, _FOUR):
        return struct.pack("<f", rng.choice((float("nan"), float("inf"), 0.0, -1.0, 1e30)))[:4] * (wire == _EIGHT or 1)
    if isinstance(value, list):
        return plain.damaged(_joined(value), rng, most=1)[0]
    kind = rng.choice(("plain", "plain", "numbers", "text"))
    if kind == "plain":
        return plain.damaged(value, rng, most=1)[0]
    if kind == "numbers":
        numbers = [rng.choice((0, 1, 2, 3, 16, 2**16, 2**31, 2**63)) for _ in range(rng.choice((1, 2, 4, 9, 200_000)))]
        return b"".join(map(_as_varint, numbers))
    return rng.choice((b"", b"x", b"y", b"image", b"\xff", b"\0", b"Loop", b"../x", b"x" * 10000, b"\x1b[2J\n"))


# Nodes that stand between a graph's input and whoever reads it. Their tensors come as initializers.
_BIG = (0, 1, 2, 1000, 10**5, 10**6, 2**31 - 1, 2**31, 2**40, 2**62, -1, -(2**31))


@st.composite
def with_a_node(draw, data):
    """(the graph with one more node that its first input goes through, what node): most are valid ONNX."""
    model = onnx.load_from_string(data)
    graph = model.graph
    name = graph.input[0].name
    size = draw(st.sampled_from(_BIG))
    sizes = draw(st.lists(st.sampled_from(_BIG), min_size=1, max_size=5))
    op = draw(st.sampled_from(sorted(_NODES)))
    made = _NODES[op](draw, "through.in", size, sizes)
    nodes, tensors = made
    for node in graph.node:
        for i, given_name in enumerate(node.input):
            if given_name == name:
                node.input[i] = "through"
    for at, node in enumerate(nodes):
        for i, inner in enumerate(node.input):
            if inner == "through.in":
                node.input[i] = name
        graph.node.insert(at, node)
    for tensor_name, array in tensors.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), tensor_name))
    if draw(st.booleans()):
        _widen(draw, model)
    try:
        return model.SerializeToString(), f"{op} {size} {sizes}"
    except ValueError as error:
        return data, f"no such graph: {error}"


def _widen(draw, model):
    """One more oddity, anywhere."""
    graph = model.graph
    kind = draw(st.sampled_from(("opset", "domain", "outside", "raw", "dims", "function", "inner", "name", "ir")))
    tensor = graph.initializer[0] if graph.initializer else None
    if kind == "opset":
        model.opset_import[0].version = draw(st.sampled_from((0, 1, 7, 11, 20, 99, -1, 2**40)))
    elif kind == "domain":
        graph.node[0].domain = draw(st.sampled_from(("com.microsoft", "ai.onnx.ml", "x", "../x")))
    elif kind == "outside" and tensor is not None:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        for key, value in (
            ("location", draw(st.sampled_from(("../../photo.png", "/etc/passwd", "stem.onnx", "")))),
            ("length", "4"),
        ):
            tensor.external_data.add(key=key, value=value)
    elif kind == "raw" and tensor is not None:
        tensor.raw_data = tensor.raw_data[: draw(st.integers(0, 8))]
    elif kind == "dims" and tensor is not None:
        del tensor.dims[:]
        tensor.dims.extend(
            draw(st.lists(st.sampled_from(_BIG), max_size=4)) + [1] * draw(st.sampled_from((0, 0, 0, 200_000)))
        )
    elif kind == "function":
        function = helper.make_function(
            "x", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], model.opset_import
        )
        model.functions.append(function)
    elif kind == "inner":
        inner = graph.value_info.add()
        inner.CopyFrom(helper.make_tensor_value_info("x9", TensorProto.FLOAT, [2**31, -1]))
    elif kind == "name":
        node = draw(st.sampled_from(list(graph.node)))
        value = draw(texts())
        if "\ud800" <= max(value, default="") <= "\udfff":
            value = "x"
        node.output[0] = value
    else:
        model.ir_version = draw(st.sampled_from((0, 3, 99, 2**40)))


def _node(op, inputs, **attributes):
    return [helper.make_node(op, inputs, ["through"], **attributes)]


def _int64(values):
    return np.asarray([max(min(v, 2**63 - 1), -(2**63)) for v in values], np.int64)


def _four(sizes):
    return (sizes * 4)[:4]


def _loop(draw, name, size, sizes):
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go.on"]),
            helper.make_node("Identity", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go.on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    tensors = {"trips": np.array(max(size, 0) % 2**62, np.int64), "true": np.array(True)}
    return [helper.make_node("Loop", ["trips", "true", name], ["through"], body=body)], tensors


def _if(draw, name, size, sizes):
    branch = helper.make_graph(
        [helper.make_node("Identity", [name], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, None)]
    )
    return [helper.make_node("If", ["true"], ["through"], then_branch=branch, else_branch=branch)], {
        "true": np.array(True)
    }


def _resize(draw, name, size, sizes):
    mode = draw(st.sampled_from(("nearest", "linear", "cubic", "x")))
    if draw(st.booleans()):
        return _node("Resize", [name, "", "", "sizes"], mode=mode), {"sizes": _int64(_four(sizes))}
    return _node("Resize", [name, "", "scales"], mode=mode), {"scales": np.asarray(_four(sizes), np.float32)}


def _filled(op):
    def make(draw, name, size, sizes):
        nodes = [
            helper.make_node(
                op,
                ["shape"] if op == "ConstantOfShape" else [],
                ["filled"],
                **({} if op == "ConstantOfShape" else {"shape": list(_int64(sizes))}),
            )
        ]
        nodes += [
            helper.make_node("ReduceMax", ["filled"], ["most"], keepdims=0),
            helper.make_node("Add", [name, "most"], ["through"]),
        ]
        return nodes, {"shape": _int64(sizes)} if op == "ConstantOfShape" else {}

    return make


def _chained(draw, name, size, sizes):
    """Doubled again and again: a file of some bytes for a tensor of any size, which is summed up in the end."""
    count = draw(st.sampled_from((4, 20, 40, 62, 300)))
    nodes, last = [], name
    for i in range(count):
        nodes.append(helper.make_node("Concat", [last, last], [f"c{i}"], axis=draw(st.sampled_from((1, 2, 3)))))
        last = f"c{i}"
    nodes += [
        helper.make_node("ReduceMax", [last], ["most"], keepdims=0),
        helper.make_node("Add", [name, "most"], ["through"]),
    ]
    return nodes, {}


def _deep(draw, name, size, sizes):
    count = draw(st.sampled_from((10, 1000, 20000)))
    names = [name, *(f"d{i}" for i in range(count - 1)), "through"]
    return [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)], {}


def _clamped(size):
    return max(min(size, 2**62), -(2**62))


_NODES = {
    "Relu": lambda draw, name, size, sizes: (_node("Relu", [name]), {}),
    "Reshape": lambda draw, name, size, sizes: (_node("Reshape", [name, "shape"]), {"shape": _int64(sizes)}),
    "Expand": lambda draw, name, size, sizes: (_node("Expand", [name, "shape"]), {"shape": _int64(_four(sizes))}),
    "Tile": lambda draw, name, size, sizes: (_node("Tile", [name, "repeats"]), {"repeats": _int64(_four(sizes))}),
    "Pad": lambda draw, name, size, sizes: (_node("Pad", [name, "pads"]), {"pads": _int64(_four(sizes) * 2)}),
    "AveragePool": lambda draw, name, size, sizes: (
        _node("AveragePool", [name], kernel_shape=_int64((sizes * 2)[:2]).tolist(), pads=_int64(_four(sizes)).tolist()),
        {},
    ),
    "MaxPool": lambda draw, name, size, sizes: (
        _node("MaxPool", [name], kernel_shape=[1, 1], strides=_int64((sizes * 2)[:2]).tolist()),
        {},
    ),
    "Conv": lambda draw, name, size, sizes: (
        _node("Conv", [name, "kernel"], pads=_int64(_four(sizes)).tolist(), group=_clamped(size)),
        {"kernel": np.ones((4, 4, 1, 1), np.float32)},
    ),
    "ConvTranspose": lambda draw, name, size, sizes: (
        _node("ConvTranspose", [name, "kernel"], strides=_int64((sizes * 2)[:2]).tolist()),
        {"kernel": np.ones((4, 4, 1, 1), np.float32)},
    ),
    "MatMul": lambda draw, name, size, sizes: (
        _node("MatMul", [name, "matrix"]),
        {"matrix": np.ones((8, min(abs(size), 10**5) or 1), np.float32)},
    ),
    "Gemm": lambda draw, name, size, sizes: (_node("Gemm", [name, name], alpha=float("nan")), {}),
    "Gather": lambda draw, name, size, sizes: (
        _node("Gather", [name, "at"], axis=_clamped(size)),
        {"at": _int64(sizes)},
    ),
    "Slice": lambda draw, name, size, sizes: (
        _node("Slice", [name, "s", "e"]),
        {"s": _int64(sizes), "e": _int64(sizes[::-1])},
    ),
    "Transpose": lambda draw, name, size, sizes: (_node("Transpose", [name], perm=_int64(sizes).tolist()), {}),
    "Unsqueeze": lambda draw, name, size, sizes: (_node("Unsqueeze", [name, "axes"]), {"axes": _int64(sizes)}),
    "Squeeze": lambda draw, name, size, sizes: (_node("Squeeze", [name, "axes"]), {"axes": _int64(sizes)}),
    "Concat": lambda draw, name, size, sizes: (_node("Concat", [name] * (len(sizes) + 1), axis=_clamped(size)), {}),
    "ReduceMean": lambda draw, name, size, sizes: (_node("ReduceMean", [name], axes=_int64(sizes).tolist()), {}),
    "Softmax": lambda draw, name, size, sizes: (_node("Softmax", [name], axis=_clamped(size)), {}),
    "Flatten": lambda draw, name, size, sizes: (_node("Flatten", [name], axis=_clamped(size)), {}),
    "Clip": lambda draw, name, size, sizes: (
        _node("Clip", [name, "low", "high"]),
        {"low": np.float32("nan"), "high": np.float32(min(size, 2**40))},
    ),
    "Cast": lambda draw, name, size, sizes: (_node("Cast", [name], to=draw(st.integers(-1, 25))), {}),
    "Einsum": lambda draw, name, size, sizes: (
        _node(
            "Einsum",
            [name, name],
            equation=draw(st.sampled_from(("abcd,efgh->abcdefgh", "abcd,abcd->", "a", "...,->"))),
        ),
        {},
    ),
    "Div": lambda draw, name, size, sizes: (_node("Div", [name, "by"]), {"by": np.float32(0)}),
    "Unknown": lambda draw, name, size, sizes: (_node("Unknown", [name]), {}),
    "Scale": lambda draw, name, size, sizes: (
        _node("Mul", [name, "by"]),
        {"by": np.float32(draw(st.sampled_from((1e30, -1e38, float("nan"), float("inf"), 1e-40))))},
    ),
    "NonZero": lambda draw, name, size, sizes: (_node("NonZero", [name]), {}),
    "Constant": lambda draw, name, size, sizes: (
        _node(
            "Constant", [], value=helper.make_tensor("v", TensorProto.FLOAT, [1, 1, 1, 1], [float(min(size, 2**60))])
        ),
        {},
    ),
    "RandomNormal": _filled("RandomNormal"),
    "ConstantOfShape": _filled("ConstantOfShape"),
    "Resize": _resize,
    "Loop": _loop,
    "If": _if,
    "Chained": _chained,
    "Deep": _deep,
}
