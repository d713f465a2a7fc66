"""A file that appears whole, or not at all."""

import os
import threading
from typing import Any, BinaryIO, Callable, Union


def replace_file(path: str, write: Callable[[BinaryIO], Any]) -> None:
    """What `write` writes to the file it is given replaces `path` in one step, safe against a crash or a power
    cut half-way.

    Until then it lies beside `path` under a name that starts with a dot. Raises OSError when it cannot be written.
    """
    name = ".writing-%s-%d-%d" % (os.path.basename(path), os.getpid(), threading.get_ident())
    fresh = os.path.join(os.path.dirname(os.path.abspath(path)), name)
    try:
        with open(fresh, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        if os.path.exists(fresh):
            os.remove(fresh)


def write_atomically(path: Union[str, "os.PathLike[str]"], data: bytes) -> None:
    """Replace `path` by `data` in one step, making its folder if need be. Raises OSError when it cannot be written."""
    path = os.fspath(path)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    replace_file(path, lambda file: file.write(data))
