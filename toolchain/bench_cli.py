"""``da3 bench``: what was measured, as a table, JSON and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

bench_app = typer.Typer(help="Measure, side by side and alternating.", no_args_is_help=True)

out = Console(highlight=False, markup=False)
BENCH_PHOTOS = 32


@bench_app.command("run")
def bench_run(
    bundle: Annotated[Path, typer.Argument(help="bundle folder or zip")] = Path("bundle"),
    domain: Annotated[str | None, typer.Option("--domain", "-d", help="default: the only one")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="photos to time (default: noise, on which gates mean little)")
    ] = None,
    repeats: Annotated[int, typer.Option(help="timed runs of each batch", min=1)] = 20,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Time gated runs against all blocks on, alternating; and switching between domains, and loading one."""
    from da3.runtime.bench import bench_bundle
    from da3.toolchain.tables import bench_table

    with Console(stderr=True).status("measuring"):
        report = bench_bundle(bundle, domain, images, BENCH_PHOTOS, repeats, batch_size, threads)
    out.print(json.dumps(report), soft_wrap=True) if json_ else out.print(bench_table(report))
