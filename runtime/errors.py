"""Every error da3 raises on purpose. The command lines print the message, not the traceback.

A message is one line that says what is wrong, where, and how to put it right. It quotes what files hold that come from
elsewhere, and so it is made printable and bounded here, once, whoever raises it.
"""

import re
from contextlib import contextmanager
from reprlib import Repr
from typing import Iterator

_MOVES = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_LONGEST = 480  # characters of a message: its beginning says what is wrong, its end the way out


def printable(text: str) -> str:
    """The text with what a terminal would obey written as escapes: control characters, line ends, halves of surrogate
    pairs (which is what a file name that is not UTF-8 has)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def stands_in_a_line(text: str) -> bool:
    """Does a name, printed as it is, do nothing but stand there, and can it be written in UTF-8? Not with control
    characters, line ends, marks that turn the direction of what follows, or bytes of a file name that were no UTF-8.

    Other than `printable` this does not depend on how new a Python's Unicode is, and takes what emoji are joined with.
    """
    return _MOVES.search(text) is None


def quoted(value: object, longest: int = 80) -> str:
    """What a file holds, as a message quotes it: Python's own way of writing the value, cut to `longest` characters.
    Nothing longer than that is made on the way, however large the value is."""
    brief = Repr()
    brief.maxstring = brief.maxother = brief.maxlong = longest
    text = brief.repr(value)
    return printable(text if len(text) <= longest else text[: longest - 3] + "...")


class Da3Error(Exception):
    """Base of all errors of the project. Its message is one printable line of bounded length, whatever was quoted."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_bounded(printable(_bounded(str(message)))))


def _bounded(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return "%s ... %s" % (text[: _LONGEST * 3 // 4 - 5], text[-_LONGEST // 4 :])


class ConfigurationError(Da3Error):
    """A file of options cannot be read, or has what is no option."""


class BundleError(Da3Error):
    """The bundle cannot be read, is damaged, or contradicts itself."""


class DomainError(Da3Error):
    """The domain is unknown, damaged, or made for another backbone."""


class ImageError(Da3Error):
    """An input cannot be read as a picture, or has the wrong shape."""


class StreamError(Da3Error):
    """A camera or video cannot be opened, has ended for good, or cannot be recorded or shown."""


class BackendError(Da3Error):
    """The inference library is missing, refuses a segment, or is closed."""


class DataError(Da3Error):
    """A folder of photos cannot be trained on."""


class CheckpointError(Da3Error):
    """A checkpoint is missing, unreadable or belongs to another run."""


class TrainingError(Da3Error):
    """Training cannot start or go on with these options."""


class RegistryError(Da3Error):
    """A registry cannot be reached, refuses, or has no domain of da3's there."""


class InUseError(Da3Error):
    """Another process is changing the same thing."""


@contextmanager
def enough_memory(to: str) -> Iterator[None]:
    """Say in a sentence for what there was not enough memory: "open the bundle", say."""
    try:
        yield
    except MemoryError:
        raise BackendError("not enough memory to %s: close other programs, or unload domains" % to)
