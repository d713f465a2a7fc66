"""A file that appears whole, or not at all, and stays: with the mode and the owner that it had."""

import errno
import os
import stat
import sys
import threading
from typing import Any, BinaryIO, Callable, Optional, Tuple, Union

from .locking import is_still, try_lock

_WRITING = ".writing-"  # what a file in writing is called before its name
_BINARY = getattr(os, "O_BINARY", 0)
_SLOTS = 1000  # that so many processes write one file at once happens to nobody
# Of a folder that cannot be synced: on Windows, on some network drives, or without the right to read it.
_CANNOT_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES, errno.EISDIR)


def replace_file(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """What `write` writes to the file it is given replaces `path` in one step, safe against a crash or a power
    cut half-way.

    Until then it lies beside `path` under a name that starts with a dot; the next one to write `path` takes that name
    over from a process that was killed. A file that is replaced keeps its mode and, where that is allowed, its owner;
    a new one has the mode that the umask leaves. Raises OSError when it cannot be written.
    """
    path = os.path.abspath(path)
    before = _status(path)
    fresh, descriptor = _fresh_file(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before is not None:
                keep_mode(fresh, before)
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # the lock holds until the name is free
                os.replace(fresh, path)
        if sys.platform == "win32":
            os.replace(fresh, path)
    except BaseException:
        _remove(fresh)
        raise
    sync_folder(os.path.dirname(path))


def write_atomically(path: Union[str, "os.PathLike[str]"], data: bytes) -> None:
    """Replace `path` by `data` in one step, making its folder if need be. Raises OSError when it cannot be written."""
    path = os.fspath(path)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    replace_file(path, lambda file: file.write(data))


def remove_unfinished(folder: str) -> None:
    """Remove the files in a folder that processes which were killed had begun to write, and nobody has taken over."""
    if sys.platform == "win32":
        return  # there, nothing tells whether another process is still writing
    try:
        names = [name for name in os.listdir(folder) if name.startswith(_WRITING)]
    except OSError:
        return
    for name in names:
        _removed_if_abandoned(os.path.join(folder, name))


def sync_folder(path: str) -> None:
    """See to it that what was made, renamed or removed in a folder is so after a power cut, too. Raises OSError."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def keep_mode(path: str, before: os.stat_result) -> None:
    """Give `path` the mode, and where that is allowed the owner, of what it replaces."""
    if sys.platform == "win32":
        return
    now = os.stat(path)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.chown(path, before.st_uid, before.st_gid)
        except OSError:
            pass  # only root may
    if stat.S_IMODE(now.st_mode) != stat.S_IMODE(before.st_mode):
        os.chmod(path, stat.S_IMODE(before.st_mode))


def _status(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except OSError:
        return None


def _fresh_file(path: str) -> Tuple[str, int]:
    """(name, descriptor) of an empty file beside `path` that is nobody else's."""
    folder, name = os.path.split(path)
    if sys.platform == "win32":
        fresh = os.path.join(folder, "%s%s-%d-%d" % (_WRITING, name, os.getpid(), threading.get_ident()))
        return fresh, os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    for slot in range(_SLOTS):
        fresh = os.path.join(folder, "%s%s%s" % (_WRITING, name, "-%d" % slot if slot else ""))
        descriptor = _claimed(fresh)
        if descriptor is not None:
            return fresh, descriptor
    raise OSError(errno.EBUSY, "too many processes write it at once", path)


def _claimed(fresh: str) -> Optional[int]:
    """A new, empty file of that name, locked; None where the name is another's. What a killed process left under it is
    removed."""
    while True:
        try:
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            if not _removed_if_abandoned(fresh):
                return None
            continue
        try_lock(descriptor)
        if is_still(descriptor, fresh):
            return descriptor
        os.close(descriptor)  # somebody took it for abandoned, between the two calls above


def _removed_if_abandoned(fresh: str) -> bool:
    """Whether the name is free now."""
    try:
        descriptor = os.open(fresh, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or try_lock(descriptor) is not True:
            return False
        if is_still(descriptor, fresh):
            os.remove(fresh)
        return True
    except FileNotFoundError:
        return True
    finally:
        os.close(descriptor)


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass
