"""Reading .npy files: one array of numbers each, a few images at a time.

`numpy.load` opens a zip archive under that name as well, unpickles objects where it is asked to, and evaluates the
header as Python. None of that is done here, and what a header says of sizes is compared with the file before any memory
is taken. The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import os
import re
import struct
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from ..errors import ImageError, quoted
from ..records import Array
from ..system.regular import open_regular

_MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 1 << 12  # bytes; of an array of numbers it is some 120
_KINDS = ("u1", "f2", "f4", "f8")
_VALUE = r"True|False|\([0-9L, ]{0,400}\)|'[^'\"\\]{1,16}'|\"[^'\"\\]{1,16}\""
_ITEM = r"\s*['\"](descr|fortran_order|shape)['\"]\s*:\s*(%s)\s*" % _VALUE
_HEADER = r"^\s*\{%s,%s,%s,?\s*\}\s*\Z" % (_ITEM, _ITEM, _ITEM)
_FORTRAN_LIMIT = 256 << 20  # bytes of an array in Fortran's order, which has to be read as a whole


class NpyFile:
    """An array in a file, of which slices along its first axis are read: `shape`, `ndim`, `dtype` and `file[a:b]` are
    those of the array."""

    def __init__(self, path: str) -> None:
        """Raises ImageError for what is no array of uint8 or floating point numbers."""
        self._path = path
        try:
            with open_regular(path) as file:
                head = file.read(_HEADER_LIMIT + 16)
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise self._refused(error.strerror or str(error))
        text, self._start = self._header(head)
        found = re.match(_HEADER, text)
        entries: Dict[str, str] = {} if found is None else dict(zip(found.groups()[::2], found.groups()[1::2]))
        if len(entries) != 3:
            raise self._refused("it holds no array of numbers, but %s" % quoted(text.strip()))
        self._stored = self._dtype(entries["descr"].strip("'\""))
        self.dtype = self._stored.newbyteorder("=")
        self.shape = self._shape(entries["shape"])
        self.ndim = len(self.shape)
        self._fortran = entries["fortran_order"] == "True"
        items = 1
        for n in self.shape:
            items *= n
        self._bytes = items * self.dtype.itemsize
        self._whole: Optional[Array] = None
        if size < self._start + self._bytes:
            raise self._refused("it is truncated: %d bytes, and its header says %d" % (size, self._start + self._bytes))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Array:
        """The entries from part.start to before part.stop. Raises ImageError if the file has shrunk meanwhile."""
        if self._fortran:
            return self.whole()[part]
        start, stop, _ = part.indices(len(self))
        row = self._bytes // max(1, len(self))
        flat = self._read(start * row, max(0, stop - start) * row)
        return flat.reshape((max(0, stop - start),) + self.shape[1:])

    def whole(self) -> Array:
        """The array. Raises ImageError as slices do."""
        if not self._fortran:
            return self._read(0, self._bytes).reshape(self.shape)
        if self._bytes > _FORTRAN_LIMIT:
            raise self._refused("it is in Fortran's order, and large: save numpy.ascontiguousarray of it")
        if self._whole is None:
            self._whole = self._read(0, self._bytes).reshape(self.shape[::-1]).transpose()
        return self._whole

    def _read(self, start: int, count: int) -> Array:
        try:
            with open_regular(self._path) as file:
                file.seek(self._start + start)
                data = file.read(count)
        except OSError as error:
            raise self._refused(error.strerror or str(error))
        except MemoryError:
            raise self._refused("there is not enough memory for %d bytes" % count)
        if len(data) != count:
            raise self._refused("it is truncated")
        flat = np.frombuffer(data, self._stored) if data else np.zeros(0, self._stored)
        return flat if self._stored.isnative else flat.astype(self.dtype)

    def _header(self, head: bytes) -> Tuple[str, int]:
        """The header's text, and where the array's bytes begin."""
        if head[: len(_MAGIC)] != _MAGIC:
            archive = head[:4] in (b"PK\3\4", b"PK\5\6")
            raise self._refused("it is an archive of arrays (.npz), not one" if archive else "it is no .npy file")
        wide = head[6:7] in (b"\2", b"\3")
        if (not wide and head[6:7] != b"\1") or len(head) < 12:
            raise self._refused("it is damaged, or of another version than 1 to 3")
        at = 12 if wide else 10
        (length,) = struct.unpack("<I" if wide else "<H", head[8:at])
        if length > _HEADER_LIMIT or at + length > len(head):
            raise self._refused("it is truncated, or its header of %d bytes is none of an array of numbers" % length)
        return head[at : at + length].decode("latin-1"), at + length

    def _dtype(self, text: str) -> "np.dtype[Any]":
        if text[:1] not in "<>|=" or text[1:] not in _KINDS:
            raise self._refused("it holds %s, not uint8 or floating point numbers" % quoted(text))
        return np.dtype(text)

    def _shape(self, text: str) -> Tuple[int, ...]:
        numbers: List[str] = [n.strip(" L") for n in text.strip("()").split(",")]
        if numbers and not numbers[-1]:
            numbers.pop()
        if len(numbers) > 8 or not all(n.isdigit() and len(n) < 19 for n in numbers):
            raise self._refused("%s is no shape of images" % quoted(text))
        return tuple(int(n) for n in numbers)

    def _refused(self, reason: str) -> ImageError:
        return ImageError("cannot read %s: %s" % (self._path, reason))
