"""The safetensors reader and writer against the library, and the reader against damage."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from da3.runtime.bundle.safetensors import parse_safetensors, write_safetensors
from da3.runtime.errors import BundleError


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.mark.parametrize("dtype", DTYPES)
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


def every_kind():
    """A few tensors of each dtype; of some names and orders in memory that a writer may get wrong."""
    rng = np.random.RandomState(0)
    tensors = {f"{dtype}.{n}": (rng.rand(3, n) * 9).astype(dtype) for dtype in DTYPES for n in (0, 1, 5)}
    tensors["scalar"] = np.array(3, np.float16)
    tensors['\u00e4"\n'] = np.asfortranarray(rng.rand(2, 3))
    tensors["big endian"] = np.arange(3, dtype=">i4")
    return tensors


@pytest.mark.parametrize("metadata", [{}, {"da3": 'x "y" \u00e4'}])
def test_the_same_bytes_as_the_library(metadata):
    tensors = every_kind()
    plain = {name: np.ascontiguousarray(a.astype(a.dtype.newbyteorder("="))) for name, a in tensors.items()}
    data = write_safetensors(tensors, metadata)
    assert data == save({**plain, "scalar": tensors["scalar"]}, metadata or None)
    assert data == write_safetensors(dict(reversed(tensors.items())), metadata)


def test_the_same_bytes_as_the_library_for_a_domain(built):
    """Tensors as a domain has them, and the library's binding of torch."""
    weights = built[1]["signs"]
    stored = {name: array.astype(np.float32 if "bias" in name else np.float16) for name, array in weights.items()}
    assert write_safetensors(stored) == save_torch({name: torch.from_numpy(array) for name, array in stored.items()})


def test_the_library_reads_what_is_written(tmp_path):
    tensors, metadata = every_kind(), {"b": "2", "a": "1"}
    (tmp_path / "w.safetensors").write_bytes(write_safetensors(tensors, metadata))
    with safe_open(tmp_path / "w.safetensors", "numpy") as file:
        assert file.metadata() == metadata and set(file.keys()) == set(tensors)
        for name, array in tensors.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
    found, again = parse_safetensors((tmp_path / "w.safetensors").read_bytes(), "w")
    assert again == metadata and all(np.array_equal(found[name], array) for name, array in tensors.items())


def test_what_cannot_be_written():
    with pytest.raises(ValueError, match="tensor 'a' is complex128, which safetensors cannot hold"):
        write_safetensors({"a": np.zeros(2, complex)})
