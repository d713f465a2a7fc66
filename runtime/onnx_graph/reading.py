"""Reading ONNX files with numpy alone: no onnx, no protobuf package.

Only what a plain graph needs is read: nodes, weights, inputs, outputs and opsets. Sub-graphs, functions, sparse and
external tensors are refused; documentation, metadata and inner value types are dropped. The field numbers are those of
onnx.proto.
"""

from typing import Dict, List

import numpy as np

from ..errors import BundleError
from ..records import Array
from .model import DTYPES, AttributeType, AttributeValue, Info, Model, Node
from .protobuf import Malformed, Message

_MOST_DIMENSIONS = 16  # of a weight: the product of 200,000 numbers alone would take a minute


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
    return Node(
        message.text(4), message.texts(1), message.texts(2), attributes, domain=message.text(7), name=message.text(3)
    )


def _attribute(message: Message) -> AttributeValue:
    kind = message.integer(20)
    if kind == AttributeType.INT:
        return message.integer(3)
    if kind == AttributeType.INTS:
        return message.integers(8)
    if kind in (AttributeType.FLOAT, AttributeType.FLOATS):
        floats: List[float] = message.array(2 if kind == AttributeType.FLOAT else 7, "<f4").tolist()
        return floats if kind == AttributeType.FLOATS else (floats or [0.0])[-1]
    if kind == AttributeType.STRING:
        data = bytes((message.pieces(4) or [memoryview(b"")])[-1])
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data
    if kind == AttributeType.STRINGS:
        return message.texts(9)
    if kind == AttributeType.TENSOR:
        return _tensor(message.message(5))
    raise Malformed("attribute %r has kind %d" % (message.text(1), kind))


def _tensor(message: Message) -> Array:
    name, code, shape = message.text(8), message.integer(2), message.integers(1)
    if len(shape) > _MOST_DIMENSIONS:
        raise Malformed("tensor %r has %d dimensions" % (name, len(shape)))
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
