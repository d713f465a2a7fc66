"""A folder to work in, beside where the result will be; gone afterwards, and so is what a killed process left."""

import binascii
import os
import re
import shutil
import sys
from contextlib import contextmanager
from typing import Iterator, Optional, Tuple

from .locking import is_still, try_lock

_NAME_END = re.compile(r"[a-z0-9_]{8}\Z")  # behind the prefix; tempfile's, by which older da3 named them, are such too


@contextmanager
def temporary_folder(purpose: str) -> Iterator[str]:
    """A scratch folder where this system has its temporary files. purpose: a word for its name. Raises OSError."""
    import tempfile  # a start may need it for nothing else

    with scratch_folder(tempfile.gettempdir(), ".da3-%s-" % purpose) as path:
        yield path


@contextmanager
def scratch_folder(parent: str, prefix: str) -> Iterator[str]:
    """A new folder in `parent`, which must be there; its name begins with `prefix`, and the umask decides its mode.

    It is locked while it is in use. Those with this prefix that nobody has locked were left by processes that were
    killed, and are removed first. Raises OSError where none can be made.
    """
    remove_abandoned(parent, prefix)
    path, descriptor = _made(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(parent: str, prefix: str) -> None:
    """Remove the folders that processes which were killed left in `parent`."""
    if sys.platform == "win32":
        return  # it has no locks of folders, so nobody knows which are in use
    try:
        found = os.listdir(parent)
    except OSError:
        return
    for name in found:
        if not name.startswith(prefix) or _NAME_END.match(name[len(prefix) :]) is None:
            continue
        path = os.path.join(parent, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if try_lock(descriptor) and is_still(descriptor, path):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def _made(parent: str, prefix: str) -> Tuple[str, Optional[int]]:
    """(path, descriptor that holds its lock; None where the system has no locks of folders)."""
    while True:
        path = os.path.join(parent, prefix + binascii.hexlify(os.urandom(4)).decode("ascii"))
        try:
            os.mkdir(path)
        except FileExistsError:
            continue
        if sys.platform == "win32":
            return path, None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # taken for abandoned, between the two calls above
        try_lock(descriptor)
        if is_still(descriptor, path):
            return path, descriptor
        os.close(descriptor)
