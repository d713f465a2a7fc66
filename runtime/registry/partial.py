"""A layer in coming: kept by its digest in the bundle's folder `.pulling`, so that a pull that broke off goes on."""

import hashlib
import os
import stat
import sys
import time
from contextlib import contextmanager
from typing import Iterator

from ..bundle.bundle import Bundle
from ..errors import BundleError, InUseError, RegistryError
from ..system.locking import is_still, try_lock

PULLING = ".pulling"
_KEPT_S = 7 * 24 * 3600.0  # what nobody has gone on with for so long is removed
_FLAGS = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
)


class Partial:
    """The first `size` bytes of a layer, in a file at `path`, which nobody else has."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._file = os.fdopen(descriptor, "r+b")
        self._hash = hashlib.sha256()
        self.size = 0
        self.useless = False
        while True:
            piece = self._file.read(1 << 20)
            if not piece:
                break
            self._hash.update(piece)
            self.size += len(piece)

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def append(self, piece: bytes) -> None:
        self._file.write(piece)
        self._hash.update(piece)
        self.size += len(piece)

    def start_anew(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def discard(self) -> None:
        """These bytes are none to go on with."""
        self.useless = True

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@contextmanager
def kept_partial(bundle: Bundle, digest: str) -> Iterator[Partial]:
    """What there is of the layer `digest`, to be gone on with. Where this ends by an error it stays, unless it was
    discarded or is empty; where this ends well it is removed. Raises InUseError where another process pulls the same
    layer, and BundleError where nothing can be written."""
    name = digest.partition(":")[2]
    bundle.files.refuse_links("%s/%s" % (PULLING, name))
    folder = os.path.join(bundle.path, PULLING)
    path = os.path.join(folder, name)
    try:
        os.makedirs(folder, exist_ok=True)
        _remove_old(folder, path)
        partial = Partial(path, _own(path))
        done = False
        try:
            yield partial
            done = True
        finally:
            if sys.platform == "win32":  # there, nothing can be removed that is open
                partial.close()
            if done or partial.useless or not partial.size:
                os.remove(path)
            partial.close()
            _remove_empty(folder)
    except OSError as error:
        raise BundleError("cannot write %s: %s" % (path, error.strerror or error)) from None


def _own(path: str) -> int:
    """A descriptor of the file that is nobody else's until it is closed."""
    while True:
        descriptor = os.open(path, _FLAGS, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise RegistryError("%s is no file: remove it" % path)
        if try_lock(descriptor) is False:
            os.close(descriptor)
            raise InUseError("%s is being pulled by another process: wait until that has ended" % path)
        if is_still(descriptor, path):
            os.lseek(descriptor, 0, os.SEEK_SET)
            return descriptor
        os.close(descriptor)  # that process has ended, and removed it, between the two calls above


def _remove_old(folder: str, but: str) -> None:
    """Remove what other pulls have left and nobody has gone on with for a week."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            status = os.lstat(path)
            if path == but or not stat.S_ISREG(status.st_mode) or time.time() - status.st_mtime < _KEPT_S:
                continue
            descriptor = os.open(path, _FLAGS & ~os.O_CREAT)
            try:
                free = try_lock(descriptor) is not False
            finally:
                os.close(descriptor)
            if free:
                os.remove(path)
        except OSError:
            continue


def _remove_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:
        pass  # it holds what is to be gone on with
