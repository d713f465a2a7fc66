"""``da3 export``: a trained domain put into a bundle, or written as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from da3.toolchain.cli.configuration import ConfigOption
from da3.toolchain.cli.console import out
from da3.toolchain.cli.options import DomainOption, RunsOption
from da3.toolchain.cli.verbosity import QuietOption


def export(
    domain: DomainOption,
    runs: RunsOption = Path("runs"),
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="bundle folder to create or add to")] = Path("bundle"),
    standalone: Annotated[
        Path | None,
        typer.Option(help="write one ordinary ONNX file here instead: same answers, any runtime, no time saved"),
    ] = None,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """Put a trained domain into a bundle, verified against PyTorch before anything is moved into place.

    The first domain writes the backbone too; every other one adds only its own files.

    Example: da3 export --domain flowers
    """
    from da3.export import export_domain, export_standalone
    from da3.export.errors import VerificationError
    from da3.toolchain.cli.export_tables import checks_table, export_summary

    try:
        with Console(stderr=True, quiet=quiet).status("writing and verifying"):
            if standalone is None:
                done = export_domain(domain, runs, bundle)
            else:
                done = export_standalone(domain, runs, standalone)
    except VerificationError as error:
        out.print(checks_table(error.checks))
        raise
    if not quiet:
        out.print(checks_table(done.checks))
    out.print(export_summary(domain, done), soft_wrap=True)
