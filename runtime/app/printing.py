"""Text from file names, bundles and packs, printed so that it harms neither the terminal nor the program."""

import sys


def printable(text: str) -> str:
    """The text with control characters, such as those that move a cursor, written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str) -> None:
    """Print to stdout; what its encoding does not have, as on a board whose locale is C, is written as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
