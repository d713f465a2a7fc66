"""Which files are pictures: paths, folders, globs and `-` in, a flat list out."""

import glob
import os
import sys
from typing import Iterable, List, Optional, Sequence, TextIO, Tuple, TypeVar, Union

import numpy as np

from ..errors import ImageError

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))
ARRAY_SUFFIX = ".npy"
T = TypeVar("T")


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
            lines = [line.rstrip("\r\n") for line in (stdin or sys.stdin)]
            for line in lines:
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


def _expand_one(item: str) -> List[str]:
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
            elif is_image_name(path) or path.endswith(ARRAY_SUFFIX):
                found.append(path)
        if not found:
            raise ImageError("no pictures match %s" % item)
        return found
    raise ImageError("no such file or folder: %s" % item)


def _walk(folder: str) -> List[str]:
    paths: List[str] = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        paths.extend(os.path.join(root, n) for n in names if is_image_name(n))
    return sorted(paths)


def evenly(items: Sequence[T], most: int) -> List[T]:
    """At most `most` of the items, in order and spread evenly over them."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]
