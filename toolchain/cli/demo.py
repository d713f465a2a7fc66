"""``da3 demo``: the whole way, from pictures to measured predictions, in two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from da3.toolchain.cli.console import out
from da3.toolchain.cli.verbosity import QuietOption


def demo(
    to: Annotated[Path, typer.Option("--out", help="folder for photos, runs, bundle and pictures")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="of the pictures that are drawn, and of training")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Adapt the embedded backbone to two small domains, export and run both; ends with a table of what was measured.

    Needs no network and about two minutes on two cores.
    """
    from da3.toolchain.cli.demo_table import demo_table
    from da3.toolchain.demo.demo import run_demo

    out.print(demo_table(run_demo(to, seed, quiet)))
