"""What the commands print, on whatever terminal there is."""

import sys
import warnings
from contextlib import contextmanager
from typing import Iterator

from ..errors import printable


def say(text: str) -> None:
    """Print to stdout; what its encoding does not have, as on a board whose locale is C, is written as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Python's warnings as a command line prints them: one line on stderr, not where in whose file they arose."""
    before = warnings.formatwarning
    warnings.formatwarning = _in_a_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _in_a_line(message: object, *place: object, **more: object) -> str:
    return "warning: %s\n" % printable(" ".join(str(message).split())[:300])
