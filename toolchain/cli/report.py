"""``da3 report``: a page to look at, of what a run, a bundle or an evaluation has written down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from da3.toolchain.cli.console import out
from da3.toolchain.cli.options import RunsOption
from da3.toolchain.cli.verbosity import QuietOption


def report(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|BUNDLE|EVALUATION...",
            help="a run by its name or folder, a bundle or pack, or what da3 evaluate --json wrote; two or more of a "
            "kind are put side by side",
            show_default=False,
        ),
    ],
    to: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write")] = Path("report.html"),
    runs: RunsOption = Path("runs"),
    photos: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="where the photos are now, if they were moved since")
    ] = None,
    pictures: Annotated[int, typer.Option(help="photos of each kind to show, 0 for none")] = 12,
    quiet: QuietOption = False,
) -> None:
    """Write one HTML file that shows curves, mistakes, confidence, what answers cost, and the photos to look at.

    It needs no network and no other file. It shows photos and paths: mind that before you hand it on.

    Example: da3 report flowers --out flowers.html

    Example: da3 report today.json last-week.json
    """
    from da3.toolchain.cli.progress_bar import progress_bar
    from da3.toolchain.report import write_report

    with progress_bar(quiet) as show:
        done = write_report(paths, to, runs=runs, photos=photos, pictures=pictures, on_progress=show)
    out.print(f"wrote {done} ({done.stat().st_size / 1e6:.1f} MB)", soft_wrap=True)
