"""Writing ONNX files with numpy alone. The field numbers are those of onnx.proto."""

from typing import List

import numpy as np

from ..errors import BundleError
from ..records import Array
from .model import DTYPES, AttributeType, AttributeValue, Info, Model, Node
from .protobuf import float_field, integer_field, piece, text_field

_CODES = {np.dtype(text): code for code, text in DTYPES.items()}


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
        return piece(4, [data]) + integer_field(20, AttributeType.STRING)
    if isinstance(value, np.ndarray):
        return piece(5, _tensor_pieces("", value)) + integer_field(20, AttributeType.TENSOR)
    if isinstance(value, (int, np.integer)):
        return integer_field(3, int(value)) + integer_field(20, AttributeType.INT)
    if isinstance(value, (float, np.floating)):
        return float_field(2, value) + integer_field(20, AttributeType.FLOAT)
    pieces: List[bytes] = []
    if all(isinstance(v, (int, np.integer)) for v in value):
        for number in value:
            pieces += integer_field(8, int(number))
        return pieces + integer_field(20, AttributeType.INTS)
    if all(isinstance(v, (int, float, np.integer, np.floating)) for v in value):
        for number in value:
            pieces += float_field(7, float(number))
        return pieces + integer_field(20, AttributeType.FLOATS)
    if all(isinstance(v, str) for v in value):
        for text in value:
            pieces += text_field(9, str(text))
        return pieces + integer_field(20, AttributeType.STRINGS)
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
