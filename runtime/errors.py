"""Every error da3 raises on purpose. The command lines print the message, not the traceback.

A message is one line that says what is wrong, where, and how to put it right.
"""

from contextlib import contextmanager
from typing import Iterator


class Da3Error(Exception):
    """Base of all errors of the project."""


class ConfigurationError(Da3Error):
    """A file of options cannot be read, or has what is no option."""


class BundleError(Da3Error):
    """The bundle cannot be read, is damaged, or contradicts itself."""


class DomainError(Da3Error):
    """The domain is unknown, damaged, or made for another backbone."""


class ImageError(Da3Error):
    """An input cannot be read as a picture, or has the wrong shape."""


class BackendError(Da3Error):
    """The inference library is missing, refuses a segment, or is closed."""


class DataError(Da3Error):
    """A folder of photos cannot be trained on."""


class CheckpointError(Da3Error):
    """A checkpoint is missing, unreadable or belongs to another run."""


class TrainingError(Da3Error):
    """Training cannot start or go on with these options."""


@contextmanager
def enough_memory(to: str) -> Iterator[None]:
    """Say in a sentence for what there was not enough memory: "open the bundle", say."""
    try:
        yield
    except MemoryError:
        raise BackendError("not enough memory to %s: close other programs, or unload domains" % to)
