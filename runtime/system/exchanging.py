"""Two files or folders change places in one step, where the system can do that."""

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Any, Optional

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, since 3.15
_RENAME_SWAP = 2  # macOS, since 10.12
# renameat2 for C libraries that have no function of that name (glibc before 2.28), by machine and bytes of a pointer.
_NUMBERS = {
    ("x86_64", 8): 316,
    ("x86_64", 4): 353,
    ("aarch64", 8): 276,
    ("aarch64", 4): 382,
    ("armv7l", 4): 382,
}
# What a kernel, a file system or a sandbox answers that cannot.
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP)


def exchange(one: str, other: str) -> bool:
    """Let `one` and `other`, on one file system, change places: there is no moment at which either is missing.

    False where this system, or this file system, cannot; nothing has happened then. Raises OSError.
    """
    outcome = _exchanged(os.fsencode(one), os.fsencode(other))
    if outcome is None or outcome in _CANNOT:
        return False
    if outcome:
        raise OSError(outcome, os.strerror(outcome), other)
    return True


def _exchanged(one: bytes, other: bytes) -> Optional[int]:
    """0 or the number of an error; None where there is no such call."""
    if sys.platform == "win32":
        return None
    library: Any = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        if not hasattr(library, "renamex_np"):
            return None
        failed = library.renamex_np(one, other, ctypes.c_uint(_RENAME_SWAP))
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, ctypes.c_uint(_RENAME_EXCHANGE))
    else:
        number = _NUMBERS.get((platform.machine(), struct.calcsize("P")))
        if number is None:
            return None
        library.syscall.restype = ctypes.c_long
        failed = library.syscall(
            ctypes.c_long(number),
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(one),
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(other),
            ctypes.c_uint(_RENAME_EXCHANGE),
        )
    return ctypes.get_errno() if failed else 0
