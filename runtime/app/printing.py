"""What the commands print, on whatever terminal there is."""

import sys

from ..errors import printable

__all__ = ["printable", "say"]


def say(text: str) -> None:
    """Print to stdout; what its encoding does not have, as on a board whose locale is C, is written as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
