"""The ``da3`` command line: its commands, and how their errors end."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from da3.runtime.app import COMMANDS, Command, warnings_in_a_line
from da3.runtime.app import main as runtime_main
from da3.runtime.errors import Da3Error
from da3.toolchain.cli.bench import bench_app
from da3.toolchain.cli.calibrate import calibrate
from da3.toolchain.cli.completion import HandedOn
from da3.toolchain.cli.config import config_app
from da3.toolchain.cli.console import escape_what_is_not_printed
from da3.toolchain.cli.demo import demo
from da3.toolchain.cli.export import export
from da3.toolchain.cli.fleet import fleet_app
from da3.toolchain.cli.report import report
from da3.toolchain.cli.runs import runs
from da3.toolchain.cli.train import train
from da3.toolchain.process.children import recorded, take_part

app = typer.Typer(
    name="da3",
    help="Adapt one frozen vision backbone to many domains, and run them on one engine that skips the blocks a "
    "picture does not need.\n\nThe usual order: da3 train, da3 export, da3 run-engine. See 'da3 COMMAND --help'.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


def run() -> None:
    """Run the command line; errors that da3 raises on purpose end in one line, not in a traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    escape_what_is_not_printed()
    try:
        with warnings_in_a_line(), recorded():
            take_part(sys.argv[1:], aloud=debug)
            app()
    except (Da3Error, OSError) as error:
        if debug:
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _show_version(asked: bool) -> None:
    if asked:
        raise typer.Exit(runtime_main(["--version"], program="da3"))


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="show the version and exit", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options of ``da3`` itself."""


def _hand_on(command: Command) -> None:
    """Register a command of the runtime: it is listed with its one line of help, and its words go to the runtime."""

    @app.command(
        command.name,
        cls=HandedOn,
        help=command.help,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def hand_on(context: typer.Context) -> None:
        raise typer.Exit(runtime_main([command.name, *context.args], program="da3"))


app.command()(train)
app.command()(export)
app.command()(calibrate)
app.command()(runs)
app.command()(report)
app.add_typer(config_app, name="config")
for _command in COMMANDS:
    _hand_on(_command)
app.add_typer(fleet_app, name="fleet")
app.add_typer(bench_app, name="bench")
app.command()(demo)
