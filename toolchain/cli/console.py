"""What all commands share: where they print their results, and what was typed to start them."""

import shlex
import sys

from rich.console import Console

# stdout, without markup, since names in results come from users.
out = Console(highlight=False, markup=False)


def typed() -> str:
    """The command line of this process."""
    return shlex.join(["da3", *sys.argv[1:]])
