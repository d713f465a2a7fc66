"""Reading files by name from a directory or from a zip, without trusting either."""

import os
from typing import TYPE_CHECKING, List, Optional

from ..errors import BundleError
from ..records import Path
from ..system.regular import read_regular
from .format import FILE_LIMIT, is_safe_name

if TYPE_CHECKING:
    from .zip_reading import ZipReader


class Files:
    """The files of a bundle or pack: `exists`, `read`, `folders`. `is_zip` says which kind it is."""

    def __init__(self, path: Path, marker: str, what: str) -> None:
        """path: directory or zip; marker: the file that must be at its root; what: how errors call it."""
        self.path = os.fspath(path)
        self.what = what
        self._zip: "Optional[ZipReader]" = None
        self._root = ""
        try:
            there = os.path.exists(self.path)
        except ValueError:  # a name with a zero byte, before Python 3.8
            there = False
        if not there:
            raise BundleError("no %s at %s: the path does not exist" % (what, self.path))
        self.is_zip = not os.path.isdir(self.path)
        if self.is_zip:
            from .zip_reading import ZipReader  # most are folders, which start without it

            self._zip = ZipReader(self.path, what)
            self._root = _root_of(self._zip.names, marker)
        if not self.exists(marker):
            self.close()
            raise BundleError("%s is not a %s: it has no %s" % (self.path, what, marker))

    def exists(self, name: str) -> bool:
        if self._zip is not None:
            return self._root + name in self._zip
        return os.path.isfile(os.path.join(self.path, *name.split("/")))

    def read(self, name: str, expected_bytes: Optional[int] = None, limit: int = FILE_LIMIT) -> bytes:
        """The bytes of one file. Its size is checked before anything is read, and no more is read than that, so
        neither a lying zip nor a growing file can fill memory. In a directory, links are refused: they could lead
        anywhere."""
        if not is_safe_name(name):
            raise BundleError("%s: unsafe file name %r: it must stay inside the %s" % (self.path, name, self.what))
        if not self.exists(name):
            raise BundleError("%s: %s is missing; copy or export it again" % (self.path, name))
        self.refuse_links(name)
        try:
            size = self._size(name)
        except OSError as error:
            raise BundleError("%s: cannot read %s: %s" % (self.path, name, error))
        if expected_bytes is not None and size != expected_bytes:
            raise BundleError(
                "%s: %s has %d bytes and should have %d; copy or export it again"
                % (self.path, name, size, expected_bytes)
            )
        if size > limit:
            raise BundleError("%s: %s has %d bytes, more than the %d allowed" % (self.path, name, size, limit))
        try:
            if self._zip is not None:
                return self._zip.read(self._root + name)
            return read_regular(os.path.join(self.path, *name.split("/")), limit)
        except OSError as error:
            raise BundleError("%s: cannot read %s: %s" % (self.path, name, error.strerror or error))

    def folders(self, under: str) -> List[str]:
        """Sorted names of the folders directly under `under`."""
        if self._zip is None:
            path = os.path.join(self.path, under)
            if not os.path.isdir(path):
                return []
            return sorted(n for n in os.listdir(path) if os.path.isdir(os.path.join(path, n)))
        start = self._root + under + "/"
        inside = [n[len(start) :] for n in self._zip.names if n.startswith(start)]
        return sorted({n.split("/")[0] for n in inside if "/" in n})

    def refuse_links(self, name: str) -> None:
        """Raise BundleError if a directory's file or folder is a symbolic link, or lies behind one, whether it is to
        be read or written. The directory itself may be one."""
        place = self.path
        for part in () if self._zip is not None else name.split("/"):
            place = os.path.join(place, part)
            if os.path.islink(place):
                raise BundleError("%s is a link, and a %s holds none: copy there what it links to" % (place, self.what))

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()

    def _size(self, name: str) -> int:
        if self._zip is not None:
            return self._zip.size(self._root + name)
        return os.path.getsize(os.path.join(self.path, *name.split("/")))


def _root_of(names: List[str], marker: str) -> str:
    """Most tools zip the folder itself: accept one folder around everything."""
    if marker in names:
        return ""
    tops = {n.split("/")[0] for n in names}
    if len(tops) == 1:
        return tops.pop() + "/"
    return ""
