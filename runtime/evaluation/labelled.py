"""Labelled photos to evaluate on: a folder with a sub-folder per class, or a CSV of paths and labels."""

import csv
import hashlib
import io
import os
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..errors import DataError
from ..images.paths import list_labelled
from ..system.regular import read_regular

_PATH_NAMES = ("path", "file", "filename", "image", "photo", "picture")  # what a CSV's header may call its columns
_LABEL_NAMES = ("label", "class", "category")
_DELIMITERS = (",", ";", "\t")
_LIMIT = 256 * 2**20  # bytes of a CSV; a million photos take less


class LabelledPhotos(NamedTuple):
    """source: the folder or CSV, as it was found. folder: what the photos' names in records are relative to. classes:
    those of the domain, in its order. photos: (path, index of its class)."""

    source: str
    folder: str
    classes: Tuple[str, ...]
    photos: Tuple[Tuple[str, int], ...]

    def name(self, path: str) -> str:
        """How a photo is called in records: its path from `folder`, with / between folders everywhere."""
        return os.path.relpath(path, self.folder).replace(os.sep, "/")

    def sha256(self) -> str:
        """Of every photo's name, label and size in bytes: the same photos, were they moved, give the same."""
        listing = hashlib.sha256()
        for path, label in self.photos:
            entry = "%s\0%s\0%s\n" % (self.name(path), self.classes[label], file_size(path))
            listing.update(entry.encode("utf-8", "replace"))
        return listing.hexdigest()


def file_size(path: str) -> Optional[int]:
    """In bytes; None where the file is gone."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def read_labelled(source: Union[str, "os.PathLike[str]"], classes: Sequence[str]) -> LabelledPhotos:
    """The photos of a folder or CSV, labelled with a domain's classes.

    A folder has a sub-folder per class, or val/ with those. A CSV has a path and a label in each row, separated by
    commas, semicolons or tabs, and paths are relative to its own folder; other columns may stand beside them under a
    header that names path and label. Raises DataError or ImageError, naming the line, for a class that the domain has
    not, a photo that is not there, and where there is none.
    """
    path = os.path.expanduser(os.fspath(source))
    if os.path.isdir(path):
        inner = os.path.join(path, "val")
        folder = inner if os.path.isdir(inner) and "val" not in classes else path
        _, photos = list_labelled(folder, classes)
        return LabelledPhotos(folder, folder, tuple(classes), tuple(photos))
    if not os.path.isfile(path):
        raise DataError("no photos at %s: name a folder with a sub-folder per class, or a CSV of path,label" % path)
    folder = os.path.dirname(path) or os.curdir
    return LabelledPhotos(path, folder, tuple(classes), tuple(_read_csv(path, folder, classes)))


def _read_csv(path: str, folder: str, classes: Sequence[str]) -> List[Tuple[str, int]]:
    rows = _rows(path)
    if not rows:
        raise DataError("%s has no rows: put a path and a label in each, such as daisy/1.jpg,daisy" % path)
    columns = _columns(path, rows[0][1])
    if columns is not None:
        rows = rows[1:]
    path_at, label_at = columns or (0, 1)
    known = {name: index for index, name in enumerate(classes)}
    seen: Dict[str, int] = {}
    photos: List[Tuple[str, int]] = []
    for line, row in rows:
        where = "%s, line %d" % (path, line)
        if len(row) <= max(path_at, label_at):
            raise DataError("%s: expected a path and a label, separated by a comma, not %r" % (where, ",".join(row)))
        photo, label = os.path.join(folder, row[path_at].strip()), row[label_at].strip()
        if label not in known:
            raise DataError("%s: unknown class %r; known: %s" % (where, label, ", ".join(classes)))
        if not os.path.isfile(photo):
            raise DataError("%s: there is no photo at %s; paths are relative to the CSV's folder" % (where, photo))
        if seen.setdefault(photo, line) != line:
            raise DataError("%s: %s is in line %d too; keep one of them" % (where, row[path_at].strip(), seen[photo]))
        photos.append((photo, known[label]))
    if not photos:
        raise DataError("%s has a header and no photos: put a path and a label in each row" % path)
    return photos


def _rows(path: str) -> List[Tuple[int, List[str]]]:
    """(line, cells) of every row that has any, whatever separates the cells."""
    try:
        # Spreadsheets begin theirs with a byte order mark.
        text = read_regular(path, _LIMIT).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise DataError("cannot read %s: %s" % (path, error.strerror or error))
    if "\0" in text:
        raise DataError("%s is no text: name a folder of photos, or a CSV of path,label" % path)
    first = text.split("\n", 1)[0]
    delimiter = next((mark for mark in _DELIMITERS if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError("%s, line %d: %s" % (path, reader.line_num, error))


def _columns(path: str, header: Sequence[str]) -> Optional[Tuple[int, int]]:
    """Where path and label are, if the first row is a header; None if it is a photo's."""
    names = [cell.strip().lower() for cell in header]
    paths = [i for i, name in enumerate(names) if name in _PATH_NAMES]
    labels = [i for i, name in enumerate(names) if name in _LABEL_NAMES]
    if paths and labels:
        return paths[0], labels[0]
    if paths or labels:
        missing = "label" if paths else "path"
        raise DataError("%s: its header names no column %r, only: %s" % (path, missing, ", ".join(header)))
    return None
