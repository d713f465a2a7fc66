"""``-v`` and ``-q``: how much the commands that take their time say meanwhile. Results and errors are said always."""

from __future__ import annotations

from typing import Annotated

import typer

from da3.toolchain.errors import TrainingError

VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="also say the options in effect, and what each epoch took")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress: only problems, and the result")]


def check_verbosity(verbose: bool, quiet: bool) -> None:
    """Raise TrainingError where both are asked for."""
    if verbose and quiet:
        raise TrainingError("--verbose and --quiet exclude each other: leave one of them out")
