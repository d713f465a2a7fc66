"""What `run-engine` leaves in folders: pictures with answers on them, and copies of those it was unsure of."""

import itertools
import os
import re
import sys
from typing import Dict, List, NamedTuple, Optional, TextIO

from ..errors import Da3Error, ImageError, printable
from ..records import Prediction
from ..system.atomic import replace_file
from .annotate import SURE, write_annotated
from .saving import make_folder

_RESERVED = frozenset(("", ".", ".."))
_PIECE = 2**20  # bytes that are copied at once


class Wanted(NamedTuple):
    """pictures: a folder for annotated pictures. unsure_below, to: pictures whose answer's probability is below are
    copied to this folder, and so are those that the domain does not know."""

    pictures: Optional[str] = None
    unsure_below: Optional[float] = None
    to: Optional[str] = None


class Results:
    """Takes predictions as they come, and writes what is wanted of each at once: a stopped run leaves what it did.

    Copies lie in a sub-folder of their guessed class: once somebody has moved those that are wrong, `to` is a folder to
    train on or to evaluate. Nothing that is there is overwritten: a file of the same name and content is left, of
    another the new one is numbered.
    """

    def __init__(self, wanted: Wanted, err: Optional[TextIO] = None) -> None:
        """Makes the folders. Raises Da3Error for what cannot be done, or is only half said."""
        if (wanted.unsure_below is None) != (wanted.to is None):
            raise Da3Error("--unsure-below and --to go together: --unsure-below 0.6 --to FOLDER")
        if wanted.pictures is not None:
            make_folder(wanted.pictures, "--save-pictures")
        if wanted.to is not None:
            make_folder(wanted.to, "--to")
        self._wanted = wanted
        self._err = sys.stderr if err is None else err
        self._names: Dict[str, str] = {}  # of annotated pictures: in lower case -> the picture that has it
        self.drawn = self.copied = self.unsure = self.unknown = 0

    def __call__(self, path: str, prediction: Prediction) -> None:
        try:
            if self._wanted.pictures is not None:
                self._draw(self._wanted.pictures, path, prediction)
            limit = self._wanted.unsure_below
            below, unknown = limit is not None and prediction.probability < limit, prediction.known is False
            if self._wanted.to is not None and (below or unknown):
                self.unsure += below
                self.unknown += unknown and not below
                self._copy(self._wanted.to, path, prediction)
        except OSError as error:
            raise Da3Error("cannot write a result for %s: %s" % (path, error.strerror or error))

    def summary(self) -> List[str]:
        """Lines that say what was written."""
        lines = []
        if self._wanted.pictures is not None:
            lines.append("%d annotated pictures in %s" % (self.drawn, printable(self._wanted.pictures)))
        if self._wanted.to is not None:
            lines.append(
                "%d pictures below %g%s, %d copied to %s: move those that are in the wrong class's folder"
                % (
                    self.unsure,
                    self._wanted.unsure_below or 0.0,
                    " and %d others unknown" % self.unknown if self.unknown else "",
                    self.copied,
                    printable(self._wanted.to),
                )
            )
        return lines

    def _draw(self, folder: str, path: str, prediction: Prediction) -> None:
        target = os.path.join(folder, self._name(path) + ".jpg")
        sure = SURE if self._wanted.unsure_below is None else self._wanted.unsure_below
        try:
            write_annotated(path, target, prediction, sure)
            self.drawn += 1
        except ImageError as error:  # an image in a .npy file has no picture to draw on
            self._err.write("not drawn: %s\n" % printable(str(error)))

    def _name(self, path: str) -> str:
        """The picture's own name, with its folder's before it, or a number behind, where another of this run has it.
        The same run again gives the same names."""
        stem = os.path.splitext(os.path.basename(path))[0]
        longer = "%s-%s" % (os.path.basename(os.path.dirname(os.path.abspath(path))), stem)
        names = itertools.chain((stem, longer), ("%s-%d" % (longer, number) for number in itertools.count(2)))
        return next(name for name in names if self._names.setdefault(name.lower(), path) == path)

    def _copy(self, folder: str, path: str, prediction: Prediction) -> None:
        if not os.path.isfile(path):
            self._err.write("not copied: %s is no file of its own\n" % printable(path))
            return
        inner = os.path.join(folder, folder_name(prediction.label))
        make_folder(inner, "--to")
        stem, ending = os.path.splitext(os.path.basename(path))
        number = 1
        while True:
            target = os.path.join(inner, stem + ("-%d" % number if number > 1 else "") + ending)
            if not os.path.lexists(target):
                _copy_file(path, target)
                break
            if _same(path, target):
                break
            number += 1
        self.copied += 1


def folder_name(label: str) -> str:
    """A class's name as that of a folder: what a pack calls its classes may lead out of the folder, or be no name."""
    name = re.sub(r"[/\\:\0]", "_", "".join(c if c.isprintable() else "_" for c in label)).strip()
    return "_" + name if name in _RESERVED or name.startswith(".") else name


def _copy_file(path: str, target: str) -> None:
    with open(path, "rb") as source:
        replace_file(target, lambda file: [file.write(piece) for piece in iter(lambda: source.read(_PIECE), b"")])


def _same(one: str, other: str) -> bool:
    if os.path.getsize(one) != os.path.getsize(other):
        return False
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            left, right = a.read(_PIECE), b.read(_PIECE)
            if left != right:
                return False
            if not left:
                return True
