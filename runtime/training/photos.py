"""Folders of labelled photos: found, split into those to train and to validate on, and checked."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..errors import DataError, ImageError, TrainingError
from ..images.decode import decode
from ..images.paths import list_labelled
from .group import ALONE, Group
from .randomness import SPLIT, stream

Photo = Tuple[str, int]  # path, label


class PhotoSet(NamedTuple):
    """Labelled photos: `train` and `val` as (path, label), `classes` by label, `unreadable` as (path, why)."""

    classes: Tuple[str, ...]
    train: Tuple[Photo, ...]
    val: Tuple[Photo, ...]
    unreadable: Tuple[Tuple[str, str], ...] = ()


def photo_folder(domain: str, given: Optional[str]) -> str:
    """The folder of a domain's photos, absolute: the one given, or data/<domain> or photos/<domain> where that exists.

    Raises TrainingError where neither does.
    """
    if given is not None:
        return os.path.realpath(os.path.expanduser(given))
    for candidate in (os.path.join("data", domain), os.path.join("photos", domain)):
        if os.path.isdir(candidate):
            return os.path.realpath(candidate)
    raise TrainingError(
        "no photos for %s: pass --data FOLDER with one subfolder per class (looked for data/%s and photos/%s)"
        % (domain, domain, domain)
    )


def find_photos(folder: Union[str, "os.PathLike[str]"], seed: int, val_share: float = 0.2) -> PhotoSet:
    """List `folder`: `train/` and `val/` with a folder per class, or one folder per class, split by `seed`.

    Raises DataError for a missing or unreadable folder, an empty class, fewer than two classes, or a class in
    `val/` that `train/` lacks.
    """
    root = os.path.expanduser(os.fspath(folder))
    if not os.path.isdir(root):
        what = "is a file, not a folder" if os.path.exists(root) else "does not exist"
        raise DataError("photo folder %s %s: name one with a subfolder for each class" % (root, what))
    train_folder, val_folder = os.path.join(root, "train"), os.path.join(root, "val")
    if os.path.isdir(train_folder):
        classes, train = _labelled(train_folder)
        if not os.path.isdir(val_folder):
            raise DataError("%s has train/ but no val/: add it, or name %s to split that" % (root, train_folder))
        _, val = _labelled(val_folder, classes)
        return PhotoSet(tuple(classes), tuple(train), tuple(val))
    classes, photos = _labelled(root)
    return _split(classes, photos, seed, val_share)


def _labelled(folder: str, classes: Optional[List[str]] = None) -> Tuple[List[str], List[Photo]]:
    try:
        names, photos = list_labelled(folder, classes)
    except (ImageError, OSError) as error:
        raise DataError(str(error))
    if len(names) < 2:
        raise DataError("%s has one class only (%s): a classifier needs two or more subfolders" % (folder, names[0]))
    return names, photos


def _split(classes: Sequence[str], photos: List[Photo], seed: int, val_share: float) -> PhotoSet:
    """Hold out `val_share` of each class, at least one photo."""
    train: List[Photo] = []
    val: List[Photo] = []
    draws = stream(seed, SPLIT)
    for label, name in enumerate(classes):
        mine = [photo for photo in photos if photo[1] == label]
        if len(mine) < 2:
            raise DataError("class %s has one photo only: at least two are needed, one of them to validate on" % name)
        held_out = max(1, round(val_share * len(mine)))
        order = draws.permutation(len(mine))
        val += [mine[i] for i in sorted(order[:held_out])]
        train += [mine[i] for i in sorted(order[held_out:])]
    return PhotoSet(tuple(classes), tuple(train), tuple(val))


def drop_unreadable(
    photos: PhotoSet,
    size: int,
    workers: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    group: Group = ALONE,
) -> PhotoSet:
    """Decode every photo once for images of `size` pixels; leave out those that cannot be, and say which and why.

    on_progress: called with the photos that are done and their total. Each process of the group decodes its part.
    Raises DataError if a class has none left.
    """
    every = photos.train + photos.val

    def problem(photo: Photo) -> Optional[str]:
        try:
            decode(photo[0], at_least=size)
        except ImageError as error:
            return str(error)
        return None

    own = range(len(every))[group.part(len(every))]
    reasons: Dict[int, str] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, (i, reason) in enumerate(zip(own, pool.map(problem, [every[i] for i in own])), 1):
            if reason is not None:
                reasons[i] = reason
            on_progress(done, len(own))
    found = np.zeros(len(every), np.float32)
    found[list(reasons)] = 1
    bad: Dict[str, str] = {}
    for i in np.flatnonzero(group.joined(found)).tolist():
        bad[every[i][0]] = reasons.get(i) or problem(every[i]) or "%s: another process cannot read it" % every[i][0]
    train = tuple(photo for photo in photos.train if photo[0] not in bad)
    val = tuple(photo for photo in photos.val if photo[0] not in bad)
    left = {label for _, label in train}
    for label, name in enumerate(photos.classes):
        if label not in left:
            first = next(iter(bad.values()))
            raise DataError("class %s: none of its training photos can be read (%s)" % (name, first))
    if not val:
        raise DataError("none of the validation photos can be read")
    return PhotoSet(photos.classes, train, val, tuple(bad.items()))


def largest_photos(photos: Sequence[Photo], count: int) -> Tuple[Photo, ...]:
    """Those of the `count` largest files that can be decoded; of equal ones the first."""
    found: List[Photo] = []
    for photo in sorted(photos, key=lambda photo: -os.path.getsize(photo[0])):
        if len(found) == count:
            break
        try:
            decode(photo[0])
        except ImageError:
            continue
        found.append(photo)
    return tuple(found)
