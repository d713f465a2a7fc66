"""Which files are pictures: paths, folders, globs and `-` in, a flat list out."""

import glob
import os
import sys
from typing import Callable, Iterable, Iterator, List, Optional, Sequence, TextIO, Tuple, TypeVar, Union

import numpy as np

from ..errors import ImageError, quoted, stands_in_a_line

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))
ARRAY_SUFFIX = ".npy"
T = TypeVar("T")
_LONGEST_LINE = 1 << 16  # bytes of a path on stdin


def is_image_name(path: str) -> bool:
    """True if the file's suffix says it is a picture; hidden files are not."""
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def expand(items: Iterable[Union[str, "os.PathLike[str]"]], stdin: Optional[TextIO] = None) -> List[str]:
    """Files, folders (all below, sorted), globs and `-` (one path a line on stdin) -> paths, in the order
    given.

    A file named outright is taken whatever its suffix; folders and globs give pictures only (and a glob .npy
    files). Raises ImageError for a path that does not exist, and when nothing is left.
    """
    paths: List[str] = []
    asked = [os.fspath(item) for item in items]
    for item in asked:
        if item == "-":
            for line in _lines(stdin):
                if line.strip():
                    paths.extend(_expand_one(line))
        else:
            paths.extend(_expand_one(item))
    if not paths:
        raise ImageError("no images: %s gave none" % (", ".join(asked) or "an empty list"))
    return paths


def list_labelled(
    folder: Union[str, "os.PathLike[str]"], classes: Optional[Iterable[str]] = None
) -> Tuple[List[str], List[Tuple[str, int]]]:
    """A folder with one sub-folder per class -> (class names, [(path, index of its class)]), both sorted.

    classes: the names to use, in this order, instead of the sub-folders' (for a val set beside its train
    set); a sub-folder that is not among them is an error. Raises ImageError when there is no class or no
    picture.
    """
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise ImageError("%s is not a folder; give one with a sub-folder of pictures per class" % folder)
    found = sorted(n for n in os.listdir(folder) if not n.startswith(".") and os.path.isdir(os.path.join(folder, n)))
    names = list(classes) if classes is not None else found
    unknown = [n for n in found if n not in names]
    if unknown:
        raise ImageError("%s: unknown class folder %r; known: %s" % (folder, unknown[0], ", ".join(names)))
    odd = [n for n in found if not stands_in_a_line(n)]
    if odd:
        raise ImageError("%s: class folder %s: use printable characters alone: rename it" % (folder, quoted(odd[0])))
    index = {name: i for i, name in enumerate(names)}
    labelled: List[Tuple[str, int]] = []
    for name in found:
        labelled.extend((path, index[name]) for path in _walk(os.path.join(folder, name)))
    if not found:
        raise ImageError("%s has no class folders; put the pictures of each class in a sub-folder" % folder)
    if not labelled:
        raise ImageError("%s: its class folders hold no pictures" % folder)
    if classes is None:
        empty = sorted(set(range(len(names))) - {label for _, label in labelled})
        if empty:
            raise ImageError("%s: class folder %r holds no pictures" % (folder, names[empty[0]]))
    return names, labelled


def _lines(stdin: Optional[TextIO]) -> Iterator[str]:
    """The lines of stdin without their ends. File names may be any bytes, and are as Python has them elsewhere."""
    raw = getattr(sys.stdin, "buffer", None) if stdin is None else None
    if raw is None:
        for text in stdin or sys.stdin:
            yield text.rstrip("\r\n")
        return
    while True:
        line = raw.readline(_LONGEST_LINE)
        if not line:
            return
        yield os.fsdecode(line.rstrip(b"\r\n"))


def _expand_one(item: str) -> List[str]:
    if "\0" in item:
        raise ImageError("no such file or folder: %s" % item)
    if os.path.isdir(item):
        found = _walk(item)
        if not found:
            raise ImageError("%s holds no pictures" % item)
        return found
    if os.path.exists(item):
        return [item]
    if glob.has_magic(item):
        found = []
        for path in sorted(glob.glob(item, recursive=True)):
            if os.path.isdir(path):
                found.extend(_walk(path) if not item.endswith("**") else [])
            elif (is_image_name(path) or path.endswith(ARRAY_SUFFIX)) and os.path.isfile(path):
                found.append(path)
        if not found:
            raise ImageError("no pictures match %s" % item)
        return found
    raise ImageError("no such file or folder: %s" % item)


def _walk(folder: str) -> List[str]:
    """The pictures in a folder and below it, sorted. Links are followed, into each folder once, and what is no regular
    file, such as a pipe, is none of its pictures."""
    paths: List[str] = []
    waiting, seen = [folder], set()
    while waiting:
        place = waiting.pop()
        try:
            at = os.stat(place)
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:  # as `os.walk` does
            continue
        # Where a file system numbers no files, links that go in a circle end by the length of their path.
        if at.st_ino and (at.st_dev, at.st_ino) in seen:
            continue
        seen.add((at.st_dev, at.st_ino))
        for entry in reversed(entries):  # so that the first in order is the first to be gone into
            if is_image_name(entry.name) and _is(entry.is_file):
                paths.append(os.path.join(place, entry.name))
            elif not entry.name.startswith(".") and _is(entry.is_dir):
                waiting.append(os.path.join(place, entry.name))
    return sorted(paths)


def _is(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except OSError:  # a link to itself
        return False


def evenly(items: Sequence[T], most: int) -> List[T]:
    """At most `most` of the items, in order and spread evenly over them."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]
