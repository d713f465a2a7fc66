"""What all commands share: where they print their results, and what was typed to start them."""

import io
import shlex
import sys

from rich.console import Console

# stdout, without markup, since names in results come from users.
out = Console(highlight=False, markup=False)


def escape_what_is_not_printed() -> None:
    """From here on what stdout's encoding does not have, as on a board whose locale is C, is written as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def typed() -> str:
    """The command line of this process."""
    return shlex.join(["da3", *sys.argv[1:]])
