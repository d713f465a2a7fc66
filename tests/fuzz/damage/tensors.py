"""Safetensors files: their headers damaged as documents, their tensors as bytes."""

import json
import struct

from hypothesis import strategies as st

from .documents import damaged, written
from .texts import INTEGERS


def parts(data):
    """(the header as JSON gives it, the bytes behind it)."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, body):
    """A file with this header, as bytes or as an object."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@st.composite
def with_damaged_header(draw, data):
    header, body = parts(data)
    kind = draw(st.sampled_from(("structure",) * 6 + ("length", "dimensions", "names", "values")))
    if kind == "structure":
        header, what = draw(damaged(header))
        text, how = draw(written(header))
        return joined(text, body), f"header {what} {how}"
    if kind == "length":
        value = draw(st.sampled_from(INTEGERS)) % 2**64
        return struct.pack("<Q", value) + data[8:], f"header of {value} bytes"
    name = draw(st.sampled_from(sorted(name for name in header if name != "__metadata__")))
    if kind == "dimensions":
        count = draw(st.sampled_from((33, 65, 1000, 200_000)))
        header[name]["shape"] = [1] * count + header[name]["shape"]
        return joined(header, body), f"{name} of {count} dimensions"
    if kind == "names":
        count = draw(st.sampled_from((100, 20_000)))
        for i in range(count):
            header[f"more.{i}"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
        return joined(header, body), f"{count} more tensors"
    begin, end = header[name]["data_offsets"]
    value = draw(
        st.sampled_from((b"\x00\x7c", b"\x00\x7e", b"\x00\xfc", b"\xff\x7b", b"\x00\x00\x80\x7f", b"\x01\x00"))
    )
    body = body[:begin] + (value * (end - begin))[: end - begin] + body[end:]
    return joined(header, body), f"{name} is {value.hex()} throughout"
