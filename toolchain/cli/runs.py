"""``da3 runs``: what was trained here, and what made one run better than another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from da3.toolchain.cli.console import out
from da3.toolchain.cli.options import RunsOption


def runs(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="domains in --runs, or folders of runs; two or more are compared"),
    ] = None,
    folder: RunsOption = Path("runs"),
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """List training runs; or compare some: accuracy, time, memory, and the settings that differ.

    Time is that of the finished epochs, memory the most that the process held.

    Example: da3 runs

    Example: da3 runs flowers runs-last-week/flowers
    """
    from da3.toolchain.cli.run_tables import comparison_table, one_run, runs_table
    from da3.toolchain.runs import differences, find_run, find_runs

    found, problems = ([find_run(name, folder) for name in names], []) if names else find_runs(folder)
    if json_:
        report = {"runs": [run.figures() | {"settings": run.settings()} for run in found]}
        if len(found) > 1 and names:
            report["differences"] = differences(found)  # type: ignore[assignment]
        print(json.dumps(report))
        return
    for problem in problems:
        out.print(f"cannot be read: {problem}", soft_wrap=True)
    if not found:
        out.print(f"no runs in {folder} yet", soft_wrap=True)
    elif not names:
        out.print(runs_table(found))
    elif len(found) == 1:
        out.print(one_run(found[0]), soft_wrap=True)
    else:
        out.print(comparison_table(found, differences(found)))
