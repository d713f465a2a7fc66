"""Reading files by name from a directory or from a zip, without trusting either."""

import os
import zipfile
import zlib
from typing import List, Optional

from ..errors import BundleError
from ..records import Path
from .format import is_safe_name


class Files:
    """The files of a bundle or pack: `exists`, `read`, `folders`. `is_zip` says which kind it is."""

    def __init__(self, path: Path, marker: str, what: str) -> None:
        """path: directory or zip; marker: the file that must be at its root; what: how errors call it."""
        self.path = os.fspath(path)
        self.what = what
        self._zip: Optional[zipfile.ZipFile] = None
        self._root = ""
        if not os.path.exists(self.path):
            raise BundleError("no %s at %s: the path does not exist" % (what, self.path))
        self.is_zip = not os.path.isdir(self.path)
        if self.is_zip:
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise BundleError("%s is not a %s: neither a folder nor a zip (%s)" % (self.path, what, error))
            self._root = _root_of(self._zip, marker)
        if not self.exists(marker):
            self.close()
            raise BundleError("%s is not a %s: it has no %s" % (self.path, what, marker))

    def exists(self, name: str) -> bool:
        if self._zip is not None:
            return self._root + name in self._zip.NameToInfo
        return os.path.isfile(os.path.join(self.path, *name.split("/")))

    def read(self, name: str, expected_bytes: Optional[int] = None, limit: int = 1 << 31) -> bytes:
        """The bytes of one file. Its size is checked before anything is read, so a lying zip cannot fill
        memory."""
        if not is_safe_name(name):
            raise BundleError("%s: unsafe file name %r: it must stay inside the %s" % (self.path, name, self.what))
        if not self.exists(name):
            raise BundleError("%s: %s is missing; copy or export it again" % (self.path, name))
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
            with open(os.path.join(self.path, *name.split("/")), "rb") as file:
                return file.read()
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            # RuntimeError: an encrypted zip, or a compression this Python does not know; ValueError: already
            # closed.
            raise BundleError("%s: cannot read %s: %s" % (self.path, name, error))

    def folders(self, under: str) -> List[str]:
        """Sorted names of the folders directly under `under`."""
        if self._zip is None:
            path = os.path.join(self.path, under)
            if not os.path.isdir(path):
                return []
            return sorted(n for n in os.listdir(path) if os.path.isdir(os.path.join(path, n)))
        start = self._root + under + "/"
        inside = [n[len(start) :] for n in self._zip.namelist() if n.startswith(start)]
        return sorted({n.split("/")[0] for n in inside if "/" in n})

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()

    def _size(self, name: str) -> int:
        if self._zip is not None:
            return self._zip.NameToInfo[self._root + name].file_size
        return os.path.getsize(os.path.join(self.path, *name.split("/")))


def _root_of(archive: zipfile.ZipFile, marker: str) -> str:
    """Most tools zip the folder itself: accept one folder around everything."""
    names = archive.namelist()
    if marker in names:
        return ""
    tops = {n.split("/")[0] for n in names}
    if len(tops) == 1:
        return tops.pop() + "/"
    return ""
