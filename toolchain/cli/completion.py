"""What a shell completes behind the commands that are handed on to the runtime, whose options typer does not know."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from typing import Any

from typer.core import TyperCommand

from da3.runtime.app import COMMANDS, command_parser


class HandedOn(TyperCommand):
    """A command of the runtime; its words are parsed there."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Its options, and where it has actions (``domains list``) these; files are the shell's own."""
        (command,) = (command for command in COMMANDS if command.name == self.name)
        parser = command_parser(command, f"da3 {command.name}")
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = next((word for word in ctx.args if word in action.choices), None)
                if chosen is None:
                    return [_item(name, "") for name in action.choices if name.startswith(incomplete)]
                parser = action.choices[chosen]
        return [
            _item(name, action.help or "")
            for action in parser._actions
            for name in action.option_strings
            if incomplete.startswith("-") and name.startswith(incomplete)
        ]


def _item(value: str, text: str) -> Any:
    # Newer typers bring what they use of click.
    own = "typer._click.shell_completion"
    module = own if importlib.util.find_spec("typer._click") is not None else "click.shell_completion"
    return importlib.import_module(module).CompletionItem(value, help=text.replace("%%", "%"))
