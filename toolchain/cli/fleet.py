"""``da3 fleet``: many domains, on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from da3.toolchain.cli.console import out, typed
from da3.toolchain.cli.verbosity import QuietOption

fleet_app = typer.Typer(
    help="Train many domains on a Ray cluster.\n\nExample: da3 fleet train fleet.yaml --address auto",
    no_args_is_help=True,
)


@fleet_app.callback()
def _fleet() -> None:
    """Train many domains on a Ray cluster."""


@fleet_app.command("train")
def fleet_train(
    file: Annotated[Path, typer.Argument(metavar="FLEET.yaml", help="which domains, and what each needs")],
    address: Annotated[
        str | None,
        typer.Option(help="of a Ray cluster: HOST:PORT, or auto on one of its machines (default: this machine alone)"),
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option("--domain", "-d", help="this domain alone; may be repeated (default: all)")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="train again the runs there that were made with other options")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what would be trained, and what each asks of a node; train nothing")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Train every domain of a file as da3 train would, wherever a node has room, and bundle them.

    Writes OUT/runs, OUT/packs/DOMAIN.da3 and OUT/bundle. What is lost with a process or a node goes on elsewhere from
    its last checkpoint, to the same result. Ctrl-C saves; the same command goes on, and leaves finished domains alone.
    Exit code 1 if a domain failed; the others are still trained. docs/fleet.md says what a file may have.

    Example: da3 fleet train fleet.yaml --address auto
    """
    from da3.runtime.system import stop_on_interrupt
    from da3.toolchain.fleet import LiveTable, look_back, of_domains, plan_table, read_plan, train_fleet

    plan = read_plan(str(file), typed())
    if domain:
        plan = of_domains(plan, domain)
    if dry_run:
        with LiveTable(quiet=quiet) as table:
            left = look_back(list(plan.jobs), overwrite, table.looking)
        out.print(plan_table(plan, left))
        return
    with LiveTable(quiet=quiet) as table, stop_on_interrupt(table.say) as stop:
        result = train_fleet(plan, table, address=address, overwrite=overwrite, stop=stop)
    finished = len(result.there) + sum(outcome.accuracy is not None for outcome in result.outcomes.values())
    out.print(f"{finished} of {len(plan.jobs)} domains are finished; runs and packs in {plan.out}", soft_wrap=True)
    for place in result.bundles:
        out.print(f"bundle: {place}", soft_wrap=True)
    if result.trouble:
        out.print(f"error: {result.trouble}", soft_wrap=True)
    if result.stopped:
        out.print("stopped; all is saved. The same command goes on", soft_wrap=True)
        raise typer.Exit(130)
    if result.failed or result.trouble:
        raise typer.Exit(1)
