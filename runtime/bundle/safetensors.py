"""Reading and writing safetensors with numpy alone: strict, no mmap, no pickle.

Layout: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes back to back. Each
header entry is {"dtype", "shape", "data_offsets": [begin, end]} counted from the end of the header;
`__metadata__` maps strings to strings.
"""

import io
import json
import struct
from typing import Any, Dict, List, Mapping, Tuple

import numpy as np

from ..errors import BundleError, quoted
from ..records import Array
from .jsonfile import read_json

# In the order in which the safetensors library writes them: wide ones first, so that every tensor is aligned.
_DTYPES = {
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "F32": "<f4",
    "U32": "<u4",
    "I32": "<i4",
    "F16": "<f2",
    "U16": "<u2",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
_CODES = {np.dtype(text): code for code, text in _DTYPES.items()}
_ORDER = {code: number for number, code in enumerate(_DTYPES)}
_MAX_HEADER = 16 << 20  # bytes; of ten thousand tensors it is one
_MAX_DIMENSIONS = 32  # numpy's, up to its release 2


def parse_safetensors(data: bytes, where: str) -> Tuple[Dict[str, Array], Dict[str, str]]:
    """(tensors, metadata) of a safetensors file's bytes; `where` names it in errors.

    The arrays are read-only views of `data`. Raises BundleError if the file is truncated, if tensors overlap
    or leave holes, or if the header is not what the format says.
    """
    header, start = _header(data, where)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise BundleError("%s: __metadata__ is not a JSON object of texts; write the file again" % where)
    spans: List[Tuple[int, int, str]] = []
    tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(name, entry, where)
        items = 1
        for n in shape:
            items *= n
        if end - begin != items * dtype.itemsize:
            raise BundleError(
                "%s: tensor %s of shape %s should take %d bytes, its offsets give %d; the file is damaged"
                % (where, quoted(name), list(shape), items * dtype.itemsize, end - begin)
            )
        if start + end > len(data):
            raise BundleError(
                "%s: truncated: tensor %s ends at byte %d, the file at %d; copy it again"
                % (where, quoted(name), start + end, len(data))
            )
        spans.append((begin, end, name))
        try:
            # Old numpys view no bytes at all.
            flat = np.frombuffer(data, dtype=dtype, count=items, offset=start + begin) if items else np.zeros(0, dtype)
            tensors[name] = flat.reshape(shape)
        except ValueError as error:  # a shape such as (0, 1 << 61)
            raise BundleError("%s: tensor %s: %s; the file is damaged" % (where, quoted(name), error))
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            what = "overlaps the one before it" if begin < at else "leaves a hole before it"
            raise BundleError("%s: tensor %s %s; the file is damaged" % (where, quoted(name), what))
        at = end
    if start + at != len(data):
        raise BundleError("%s: %d bytes after the last tensor; the file is damaged" % (where, len(data) - start - at))
    return tensors, metadata


def write_safetensors(tensors: Mapping[str, Array], metadata: Mapping[str, str] = {}) -> bytes:
    """The bytes of a safetensors file, which are those that the safetensors library writes for the same content.

    Raises ValueError for a dtype that the format, or this module, has no name for.
    """
    entries = []
    for name, array in tensors.items():
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _CODES:
            raise ValueError("tensor %r is %s, which safetensors cannot hold" % (name, array.dtype))
        entries.append((_ORDER[_CODES[dtype]], name))
    header: Dict[str, Any] = {"__metadata__": {key: metadata[key] for key in sorted(metadata)}} if metadata else {}
    at = 0
    for order, name in sorted(entries):
        header[name] = {
            "dtype": list(_DTYPES)[order],
            "shape": list(tensors[name].shape),
            "data_offsets": [at, at + tensors[name].nbytes],
        }
        at += tensors[name].nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file = io.BytesIO()  # which grows as it is written to, and hands over what it holds
    file.write(struct.pack("<Q", len(text)))
    file.write(text)
    for _, name in sorted(entries):
        array = tensors[name]
        file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return file.getvalue()


def _header(data: bytes, where: str) -> Tuple[Dict[str, Any], int]:
    if len(data) < 8:
        raise BundleError("%s: truncated: %d bytes are no safetensors file; copy it again" % (where, len(data)))
    length = struct.unpack("<Q", data[:8])[0]
    if length > _MAX_HEADER or 8 + length > len(data):
        raise BundleError("%s: truncated, or not a safetensors file (header of %d bytes)" % (where, length))
    try:
        header = read_json(data[8 : 8 + length], _MAX_HEADER)
    except ValueError as error:
        raise BundleError("%s: not a safetensors file: its header is not JSON (%s)" % (where, error))
    if not isinstance(header, dict):
        raise BundleError("%s: not a safetensors file: its header is not a JSON object" % where)
    return header, 8 + length


def _entry(name: str, entry: Any, where: str) -> Tuple[Any, Tuple[int, ...], int, int]:
    try:
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise BundleError(
            "%s: tensor %s lacks dtype, shape or data_offsets; the file is damaged" % (where, quoted(name))
        )
    if not isinstance(code, str) or code not in _DTYPES:
        raise BundleError(
            "%s: tensor %s has dtype %s, which numpy cannot hold; known: %s"
            % (where, quoted(name), quoted(code).strip("'"), ", ".join(sorted(_DTYPES)))
        )
    numbers = shape + (begin, end)
    tame = len(shape) <= _MAX_DIMENSIONS and all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
    if not tame or begin > end:
        raise BundleError(
            "%s: tensor %s has a bad shape or offsets (%s); the file is damaged" % (where, quoted(name), quoted(entry))
        )
    return np.dtype(_DTYPES[code]), shape, begin, end
