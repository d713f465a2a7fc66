"""The safetensors reader against the library that writes them, and against damage."""

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import save

from da3.runtime.bundle.safetensors import parse_safetensors
from da3.runtime.errors import BundleError


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
def test_what_the_library_writes(dtype):
    rng = np.random.RandomState(0)
    tensors = {
        "a": (rng.rand(3, 4) * 9).astype(dtype),
        "scalar": np.array(1).astype(dtype),
        "empty": np.zeros((0, 3), dtype),
        "b.c": (rng.rand(7) * 9).astype(dtype),
    }
    found, metadata = parse_safetensors(save(tensors, {"k": "v"}), "x")
    assert metadata == {"k": "v"} and set(found) == set(tensors)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


def entry(begin, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "truncated: 0 bytes"),
        (b"\xff" * 16, "truncated, or not a safetensors file"),
        (raw(b"nonsense"), "its header is not JSON"),
        (raw(b"\xff\xfe"), "its header is not JSON"),
        (raw([1]), "its header is not a JSON object"),
        (raw({"a": 3}), "lacks dtype"),
        (raw({"a": entry(0, 4, dtype="BF16")}, b"1234"), "dtype BF16, which numpy cannot hold"),
        (raw({"a": entry(0, 4, (-1,))}, b"1234"), "bad shape or offsets"),
        (raw({"a": entry(4, 0)}, b"1234"), "bad shape or offsets"),
        (raw({"a": entry(0, 4, (2,))}, b"1234"), "should take 8 bytes, its offsets give 4"),
        (raw({"a": entry(0, 4)}, b"12"), "truncated: tensor 'a'"),
        (raw({"a": entry(0, 4), "b": entry(2, 6)}, b"123456"), "overlaps"),
        (raw({"a": entry(0, 4), "b": entry(8, 12)}, b"1" * 12), "leaves a hole"),
        (raw({"a": entry(0, 4)}, b"12345"), "1 bytes after the last tensor"),
        (raw({"__metadata__": 3}), "__metadata__ is not"),
    ],
)
def test_damage(data, message):
    with pytest.raises(BundleError, match=message):
        parse_safetensors(data, "w.safetensors")


def test_any_truncation_is_refused():
    data = save({"a": np.ones((3, 5), np.float32), "b": np.ones(4, np.float16)})
    for length in range(len(data)):
        with pytest.raises(BundleError):
            parse_safetensors(data[:length], "w")
