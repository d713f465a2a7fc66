"""The wire format of protobuf messages, read and written without the protobuf package.

https://protobuf.dev/programming-guides/encoding. What the numbers of the fields mean is the caller's knowledge.
"""

import struct
from typing import Dict, List, Sequence, Tuple, Union

import numpy as np

from ..records import Array

_Field = Union[int, memoryview]


class Malformed(Exception):
    """These bytes are not such a message; the text says where it stops being one."""


class Message:
    """A protobuf message: the values of each field, in order."""

    def __init__(self, data: memoryview) -> None:
        self._fields: Dict[int, List[_Field]] = {}
        at = 0
        while at < len(data):
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            value: _Field
            if wire == 0:
                value, at = _varint(data, at)
            elif wire in (1, 2, 5):
                size = 8 if wire == 1 else 4
                if wire == 2:
                    size, at = _varint(data, at)
                if size > len(data) - at:
                    raise Malformed("field %d ends behind the data" % number)
                value, at = data[at : at + size], at + size
            else:
                raise Malformed("wire type %d" % wire)
            if number == 0:
                raise Malformed("a field numbered 0")
            self._fields.setdefault(number, []).append(value)

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def pieces(self, number: int) -> List[memoryview]:
        """A field of bytes, texts, messages, or packed or single floats."""
        found: List[memoryview] = []
        for value in self._fields.get(number, ()):
            if isinstance(value, int):
                raise Malformed("field %d is a number" % number)
            found.append(value)
        return found

    def messages(self, number: int) -> List["Message"]:
        return [Message(piece) for piece in self.pieces(number)]

    def message(self, number: int) -> "Message":
        pieces = self.pieces(number)
        if not pieces:
            raise Malformed("field %d is missing" % number)
        return Message(pieces[-1])

    def texts(self, number: int) -> List[str]:
        try:
            return [bytes(piece).decode("utf-8") for piece in self.pieces(number)]
        except UnicodeDecodeError:
            raise Malformed("field %d is not text" % number)

    def text(self, number: int) -> str:
        return (self.texts(number) or [""])[-1]

    def array(self, number: int, dtype: str) -> Array:
        """Fixed-width numbers, packed or one by one."""
        data = b"".join(self.pieces(number))
        if len(data) % np.dtype(dtype).itemsize:
            raise Malformed("field %d holds a fraction of a number" % number)
        return np.frombuffer(data, dtype=dtype) if data else np.zeros(0, dtype)  # old numpys refuse no bytes

    def integers(self, number: int) -> List[int]:
        """Signed integers, packed or one by one."""
        found: List[int] = []
        for value in self._fields.get(number, ()):
            if isinstance(value, int):
                found.append(_signed(value))
                continue
            at = 0
            while at < len(value):
                n, at = _varint(value, at)
                found.append(_signed(n))
        return found

    def integer(self, number: int) -> int:
        return (self.integers(number) or [0])[-1]


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    """(the unsigned number that starts at byte `at`, where it ends)."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("a number without an end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# A message under construction is a list of pieces, joined once by whoever holds the outermost, so that what is large
# is not copied at every level.


def piece(number: int, pieces: Sequence[bytes]) -> List[bytes]:
    """A field of bytes, of text, or that is a message itself."""
    return [_number(number << 3 | 2) + _number(sum(len(p) for p in pieces))] + list(pieces)


def text_field(number: int, text: str) -> List[bytes]:
    return piece(number, [text.encode("utf-8")])


def integer_field(number: int, value: int) -> List[bytes]:
    return [_number(number << 3) + _number(value & 0xFFFFFFFFFFFFFFFF)]


def float_field(number: int, value: float) -> List[bytes]:
    return [_number(number << 3 | 5) + struct.pack("<f", value)]


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
