"""Whose turn it is: a file that one process at a time holds, and that says who holds it.

The lock is the kernel's, so it ends with its process, however that ends: a file that a killed process left is taken
over. The file is gone when nobody holds the lock.
"""

import errno
import json
import os
import sys
import time
from contextlib import contextmanager
from typing import Iterator, Optional, Tuple

from ..errors import InUseError
from ..records import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"  # what the file of a folder's lock is called in it
_PATIENCE_S = 60.0  # putting something in place takes a second or two
_PAUSE_S = 0.02
_LONGEST = 4096  # bytes of what a holder says of itself
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


@contextmanager
def exclusive(folder: Path, patience: float = _PATIENCE_S) -> Iterator[bool]:
    """While this holds, no other holds the lock of `folder`, which must be there.

    patience: for how many seconds to wait for another one to end. Gives False where the file system has no locks: then
    others may hold it, too. Raises InUseError, which says who holds it, and OSError where nothing can be written.
    """
    folder = os.fspath(folder)
    path = os.path.join(folder, LOCK)
    descriptor, alone = _acquire(folder, path, patience)
    try:
        yield alone
    finally:
        if sys.platform == "win32":  # there, nothing can be removed that is open
            os.close(descriptor)
            _remove(path)
        else:
            if is_still(descriptor, path):
                _remove(path)
            if alone:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too
            os.close(descriptor)


def try_lock(descriptor: int) -> Optional[bool]:
    """Lock an open file, or a folder, for as long as it is open. False: another has it; None: this file system has no
    locks, or the system none for folders."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # what the file holds can be read by others
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def is_still(descriptor: int, path: str) -> bool:
    """Whether `path` is the very file, or folder, that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _acquire(folder: str, path: str, patience: float) -> Tuple[int, bool]:
    until = time.monotonic() + patience
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = try_lock(descriptor)
            if locked is not False and is_still(descriptor, path):
                _say_who(descriptor)
                return descriptor, locked is True
            holder = _who(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if locked is False:
            if time.monotonic() >= until:
                raise InUseError("%s is in use by %s: try again when that has ended" % (folder, holder))
            time.sleep(_PAUSE_S)


def _say_who(descriptor: int) -> None:
    import socket  # a start needs it for nothing else

    who = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join([os.path.basename(sys.argv[0])] + sys.argv[1:])[:200],
        "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    }
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(who).encode("ascii"))
    except OSError:
        pass  # the lock is held on a full disk, too, where things can be removed


def _who(descriptor: int) -> str:
    """The holder in words."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        who = json.loads(os.read(descriptor, _LONGEST).decode("ascii"))
        words = [str(who[key])[:200] for key in ("command", "pid", "host", "since")]
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    plain = ["".join(c if c.isprintable() else "?" for c in word) for word in words]
    return "`%s` (process %s on %s, since %s)" % tuple(plain)


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass
