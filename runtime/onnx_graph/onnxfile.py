"""Reading and writing ONNX files with numpy alone: no onnx, no protobuf package.

Only what a plain graph needs: nodes, weights, inputs, outputs and opsets. Sub-graphs, functions, sparse and external
tensors are refused; documentation, metadata and inner value types are dropped. The field numbers are those of
onnx.proto.
"""

from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from ..errors import BundleError
from ..records import Array
from .protobuf import Malformed, Message, float_field, integer_field, piece, text_field

AttributeValue = Union[int, float, str, bytes, List[int], List[float], List[str], Array]

# onnx.TensorProto.DataType -> numpy, as the bytes lie in raw_data
DTYPES = {
    1: "<f4",
    2: "|u1",
    3: "|i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "|b1",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}
_CODES = {np.dtype(text): code for code, text in DTYPES.items()}
_FLOAT, _INT, _STRING, _TENSOR, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 6, 7, 8  # onnx.AttributeProto.AttributeType


class Node:
    """One operator call. An omitted input or output is the empty name. attributes: int, float, str (bytes where it
    is not UTF-8), a list of ints, floats or strs, or an array."""

    def __init__(
        self,
        op: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: Optional[Dict[str, AttributeValue]] = None,
        domain: str = "",
        name: str = "",
    ) -> None:
        self.op = op
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.attributes = dict(attributes or {})
        self.domain = domain
        self.name = name

    def __repr__(self) -> str:
        return "Node(%r, %r, %r, %r)" % (self.op, self.inputs, self.outputs, self.attributes)


class Info(NamedTuple):
    """A graph's input or output. A shape entry is an integer, the name of a free dimension, or None."""

    name: str
    dtype: "np.dtype[np.generic]"
    shape: Tuple[Union[int, str, None], ...]


class Model:
    """One graph. nodes: in an order that can be run. weights: the initialisers, in the file's order."""

    def __init__(
        self,
        nodes: Iterable[Node],
        weights: Dict[str, Array],
        inputs: Iterable[Info],
        outputs: Iterable[Info],
        opsets: Dict[str, int],
        ir_version: int = 7,
        name: str = "graph",
    ) -> None:
        self.nodes = list(nodes)
        self.weights = dict(weights)
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.opsets = dict(opsets)
        self.ir_version = ir_version
        self.name = name


# -- reading


def read_model(data: bytes, where: str = "ONNX file") -> Model:
    """The graph in the bytes of an ONNX file; `where` names it in errors. Its weights are copies, free to change.

    Raises BundleError if the file is truncated, is no ONNX file, or holds what the module's text rules out.
    """
    try:
        return _model(Message(memoryview(data)))
    except Malformed as error:
        raise BundleError("%s: truncated, damaged, or not a plain ONNX file (%s)" % (where, error))


def _model(message: Message) -> Model:
    opsets = {m.text(1): m.integer(2) for m in message.messages(8)}
    if message.integer(1) < 1 or not opsets:
        raise Malformed("no IR version or no opset")
    if 25 in message:
        raise Malformed("it defines functions")
    graph = message.message(7)
    if 15 in graph:
        raise Malformed("it has sparse weights")
    weights: Dict[str, Array] = {}
    for entry in graph.messages(5):
        name = entry.text(8)
        if not name or name in weights:
            raise Malformed("two weights are called %r" % name)
        weights[name] = _tensor(entry)
    return Model(
        nodes=[_node(m) for m in graph.messages(1)],
        weights=weights,
        inputs=[_info(m) for m in graph.messages(11)],
        outputs=[_info(m) for m in graph.messages(12)],
        opsets=opsets,
        ir_version=message.integer(1),
        name=graph.text(2),
    )


def _node(message: Message) -> Node:
    attributes = {m.text(1): _attribute(m) for m in message.messages(5)}
    return Node(message.text(4), message.texts(1), message.texts(2), attributes, message.text(7), message.text(3))


def _attribute(message: Message) -> AttributeValue:
    kind = message.integer(20)
    if kind == _INT:
        return message.integer(3)
    if kind == _INTS:
        return message.integers(8)
    if kind in (_FLOAT, _FLOATS):
        floats: List[float] = message.array(2 if kind == _FLOAT else 7, "<f4").tolist()
        return floats if kind == _FLOATS else (floats or [0.0])[-1]
    if kind == _STRING:
        data = bytes((message.pieces(4) or [memoryview(b"")])[-1])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data
    if kind == _STRINGS:
        return message.texts(9)
    if kind == _TENSOR:
        return _tensor(message.message(5))
    raise Malformed("attribute %r has kind %d" % (message.text(1), kind))


def _tensor(message: Message) -> Array:
    name, code, shape = message.text(8), message.integer(2), message.integers(1)
    if code not in DTYPES:
        raise Malformed("tensor %r has data type %d" % (name, code))
    if message.integer(14) or 13 in message:
        raise Malformed("the data of tensor %r is in another file" % name)
    dtype = np.dtype(DTYPES[code])
    flat = _values(message, dtype)
    items = 1
    for n in shape:
        items *= n
    if min(shape, default=0) < 0 or items != flat.size:
        raise Malformed("tensor %r of shape %s holds %d numbers" % (name, shape, flat.size))
    try:
        return flat.reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # a shape such as (0, 1 << 62)
        raise Malformed("tensor %r: %s" % (name, error))


def _values(message: Message, dtype: "np.dtype[np.generic]") -> Array:
    """A tensor's numbers, flat, from whichever field its writer chose."""
    if 9 in message:
        return message.array(9, dtype.str)
    for number, fixed in ((4, "<f4"), (10, "<f8")):
        if dtype.str == fixed:
            return message.array(number, fixed)
    number = 7 if dtype.str == "<i8" else 11 if dtype.str in ("<u4", "<u8") else 5
    # As 64 bits, of which the lower ones count; float16 is stored by its bits.
    wide = np.array([n & 0xFFFFFFFFFFFFFFFF for n in message.integers(number)], dtype="<u8")
    return wide.astype("<u%d" % dtype.itemsize).view(dtype)


def _info(message: Message) -> Info:
    name = message.text(1)
    kind = message.message(2)
    if 1 not in kind:
        raise Malformed("%r is no tensor" % name)
    tensor = kind.message(1)
    code = tensor.integer(1)
    if code not in DTYPES or 2 not in tensor:
        raise Malformed("%r has data type %d, or no shape" % (name, code))
    shape = [m.integer(1) if 1 in m else (m.text(2) or None) for m in tensor.message(2).messages(1)]
    return Info(name, np.dtype(DTYPES[code]).newbyteorder("="), tuple(shape))


# -- writing


def write_model(model: Model) -> bytes:
    """The bytes of an ONNX file. Raises BundleError for a dtype or an attribute that ONNX cannot hold."""
    graph: List[bytes] = []
    for node in model.nodes:
        graph += piece(1, _node_pieces(node))
    graph += text_field(2, model.name or "graph")
    for name, array in model.weights.items():
        graph += piece(5, _tensor_pieces(name, array))
    for number, infos in ((11, model.inputs), (12, model.outputs)):
        for info in infos:
            graph += piece(number, _info_pieces(info))
    pieces = integer_field(1, model.ir_version) + text_field(2, "da3") + piece(7, graph)
    for domain, version in model.opsets.items():
        pieces += piece(8, text_field(1, domain) + integer_field(2, version))
    return b"".join(pieces)


def _node_pieces(node: Node) -> List[bytes]:
    pieces: List[bytes] = []
    for number, names in ((1, node.inputs), (2, node.outputs)):
        for name in names:
            pieces += text_field(number, name)
    if node.name:
        pieces += text_field(3, node.name)
    pieces += text_field(4, node.op)
    for name, value in node.attributes.items():
        pieces += piece(5, text_field(1, name) + _attribute_pieces(node, name, value))
    return pieces + (text_field(7, node.domain) if node.domain else [])


def _attribute_pieces(node: Node, name: str, value: AttributeValue) -> List[bytes]:
    if isinstance(value, (bytes, str)):
        data = value if isinstance(value, bytes) else value.encode("utf-8")
        return piece(4, [data]) + integer_field(20, _STRING)
    if isinstance(value, np.ndarray):
        return piece(5, _tensor_pieces("", value)) + integer_field(20, _TENSOR)
    if isinstance(value, (int, np.integer)):
        return integer_field(3, int(value)) + integer_field(20, _INT)
    if isinstance(value, (float, np.floating)):
        return float_field(2, value) + integer_field(20, _FLOAT)
    pieces: List[bytes] = []
    if all(isinstance(v, (int, np.integer)) for v in value):
        for number in value:
            pieces += integer_field(8, int(number))
        return pieces + integer_field(20, _INTS)
    if all(isinstance(v, (int, float, np.integer, np.floating)) for v in value):
        for number in value:
            pieces += float_field(7, float(number))
        return pieces + integer_field(20, _FLOATS)
    if all(isinstance(v, str) for v in value):
        for text in value:
            pieces += text_field(9, str(text))
        return pieces + integer_field(20, _STRINGS)
    raise BundleError("attribute %s of a %s node cannot be written: %r" % (name, node.op, value))


def _tensor_pieces(name: str, array: Array) -> List[bytes]:
    pieces: List[bytes] = []
    for n in array.shape:
        pieces += integer_field(1, n)
    dtype = array.dtype.newbyteorder("<")
    pieces += integer_field(2, _code(name, dtype))
    if name:
        pieces += text_field(8, name)
    return pieces + piece(9, [array.astype(dtype, copy=False).tobytes()])


def _info_pieces(info: Info) -> List[bytes]:
    shape: List[bytes] = []
    for n in info.shape:
        shape += piece(1, [] if n is None else text_field(2, n) if isinstance(n, str) else integer_field(1, n))
    tensor = integer_field(1, _code(info.name, np.dtype(info.dtype).newbyteorder("<"))) + piece(2, shape)
    return text_field(1, info.name) + piece(2, piece(1, tensor))


def _code(name: str, dtype: "np.dtype[np.generic]") -> int:
    if dtype not in _CODES:
        raise BundleError("%r has dtype %s, which is not among those written to ONNX" % (name, dtype))
    return _CODES[dtype]
