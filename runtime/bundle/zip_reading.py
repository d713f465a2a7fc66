"""Members of a zip file that nobody vouches for, read within bounds that hold whatever the file says of itself."""

import io
import os
import struct
import zipfile
import zlib
from typing import BinaryIO, Dict, List

from ..errors import BundleError
from ..records import Path
from ..system.regular import open_regular
from ..system.sizes import render_bytes

_PIECE = 1 << 20  # bytes that are inflated at a time
_DIRECTORY_LIMIT = 2 << 20  # bytes; the list of 10,000 files takes half of it, and ten times as much in memory
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# What is deflated may be so many times as large as it is in the zip, since weights hardly shrink; JSON shrinks more,
# and what is small may.
_RATIO, _SMALL = 50, 4 << 20
# What `zipfile` raises for a damaged file, of which it names few itself: RuntimeError for a version that it does not
# know, ValueError for a name that is not UTF-8, or when it is closed already.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    OverflowError,
)


class ZipReader:
    """The members of a zip by name. Only stored and deflated ones are read; a name stands for one of them alone."""

    def __init__(self, path: Path, what: str) -> None:
        """what: how errors call it. Raises BundleError for what is no zip."""
        self._path = os.fspath(path)
        try:
            self._file = _Bounded(open_regular(path))
        except OSError as error:
            raise BundleError("%s is not a %s: %s" % (self._path, what, error.strerror or error))
        try:
            self._zip = zipfile.ZipFile(self._file)
            self._members: Dict[str, zipfile.ZipInfo] = {}
            for info in self._zip.infolist():
                if info.filename in self._members:
                    raise zipfile.BadZipFile("it holds %s twice" % info.filename)
                self._members[info.filename] = info
        except _DAMAGE as error:
            self._file.close()
            raise BundleError("%s is not a %s: neither a folder nor a zip (%s)" % (self._path, what, error))

    @property
    def names(self) -> List[str]:
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """The bytes of a member, as the zip declares them. No more of it is ever read."""
        return self._members[name].file_size

    def read(self, name: str) -> bytes:
        """A member, inflated in pieces up to the size that is declared, its checksum compared. Raises BundleError."""
        info = self._members[name]
        if info.compress_type not in _METHODS:
            raise self._refused(name, "it is compressed by method %d: zip it with deflate" % info.compress_type)
        if info.flag_bits & 1:
            raise self._refused(name, "it is encrypted")
        if info.file_size > max(_SMALL, _RATIO * info.compress_size):
            inflated = "%s of which the zip holds %s" % (render_bytes(info.file_size), render_bytes(info.compress_size))
            raise self._refused(name, "it says it has %s, which no weights shrink to" % inflated)
        pieces: List[bytes] = []
        length = 0
        try:
            with self._zip.open(info) as member:
                while length <= info.file_size:
                    piece = member.read(_PIECE)
                    if not piece:
                        break
                    pieces.append(piece)
                    length += len(piece)
        except _DAMAGE as error:
            raise self._refused(name, str(error) or type(error).__name__)
        if length != info.file_size:
            raise self._refused(name, "it has %d bytes and should have %d" % (length, info.file_size))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """May be called twice."""
        self._zip.close()
        self._file.close()

    def _refused(self, name: str, reason: str) -> BundleError:
        return BundleError("%s: cannot read %s: %s" % (self._path, name, reason))


class _Bounded(io.RawIOBase):
    """A file that gives no more than `_DIRECTORY_LIMIT` bytes at a time: `zipfile` reads a zip's directory at once, as
    long as the zip says that it is."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            size = max(0, self._size - self._file.tell())
        if size > _DIRECTORY_LIMIT:
            raise zipfile.BadZipFile("its directory has more than %s" % render_bytes(_DIRECTORY_LIMIT))
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
