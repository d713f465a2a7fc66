"""``da3 config``: the options that a command would work with."""

from __future__ import annotations

import typer

from da3.toolchain.cli.configuration import COMMANDS, effective
from da3.toolchain.cli.console import out


def config(context: typer.Context) -> None:
    """Print the options that da3 train, or da3 export, would work with, and where each is from.

    What is printed is a file that --config reads. Name the command first (default: train), then its options.

    Example: da3 config train --domain flowers --epochs 30 > flowers.toml

    Example: da3 config export --config flowers.toml
    """
    assert context.parent is not None
    words = list(context.args)
    name = words.pop(0) if words and words[0] in COMMANDS else COMMANDS[0]
    command = context.parent.command.commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        parameter.required = False  # what is missing is told, not asked for
    parsed = command.make_context(name, words, parent=context.parent)
    out.print(f"# da3 {name}\n{effective(parsed)}", soft_wrap=True)
