"""``da3 config``: the options that a command would work with."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

from da3.toolchain.cli.configuration import effective
from da3.toolchain.cli.console import out
from da3.toolchain.cli.export import export
from da3.toolchain.cli.train import train

config_app = typer.Typer(
    help="Print the options that a command would work with and where each is from, and do nothing else.\n\n"
    "What is printed is a file that --config reads.\n\n"
    "Example: da3 config train --domain flowers --epochs 30 > flowers.toml",
    no_args_is_help=True,
)


class Printed(TyperCommand):
    """A command with the options of another, that prints them in its place. What is missing is told, not asked for."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        for parameter in self.params:
            parameter.required = False

    def invoke(self, ctx: Any) -> None:
        out.print(f"# da3 {self.name}\n{effective(ctx)}", soft_wrap=True)


config_app.command("train", cls=Printed, help="Print the options that da3 train would work with.")(train)
config_app.command("export", cls=Printed, help="Print the options that da3 export would work with.")(export)
