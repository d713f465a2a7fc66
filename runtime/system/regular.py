"""Reading files whose names come from elsewhere: only regular ones, and never more than a limit.

Opening a named pipe waits for whoever writes it, and a device such as /dev/zero has no end.
"""

import errno
import os
import stat
from typing import BinaryIO, Optional, Union

from .sizes import render_bytes


def open_regular(path: Union[str, "os.PathLike[str]"]) -> BinaryIO:
    """A regular file, or a link to one, opened for reading. Raises OSError for anything else, without waiting."""
    flags = os.O_RDONLY
    for name in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK"):  # which of them there are depends on the system
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(os.fspath(path), flags)
    except ValueError:  # a name with a zero byte, or one that this file system's encoding does not have
        raise OSError(errno.EINVAL, "no file can have this name", os.fspath(path))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def read_regular(path: Union[str, "os.PathLike[str]"], limit: Optional[int] = None) -> bytes:
    """The bytes of a regular file. Raises OSError when it cannot be read, or has more than `limit` bytes: nothing is
    read of it then."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            reason = "it has %s, more than the %s allowed" % (render_bytes(size), render_bytes(limit))
            raise OSError(errno.EFBIG, reason, os.fspath(path))
        return file.read(size)
