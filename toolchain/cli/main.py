"""The ``da3`` console script: the whole command line, or the runtime's part of it on a device without typer."""

from __future__ import annotations

import importlib.util
import sys

from da3.runtime.app import COMMANDS, is_for_the_runtime
from da3.runtime.app import main as runtime_main


def main() -> None:
    """Entry point. A command of the runtime starts without typer and torch: it needs neither, and a device has none."""
    words = sys.argv[1:]
    if is_for_the_runtime(words):
        sys.exit(runtime_main(words, program="da3"))
    if importlib.util.find_spec("typer") is None:
        if words[:1] == ["report"]:
            sys.exit("error: reports need more packages: pip install 'da3[report]'")
        known = ", ".join(f"'da3 {command.name}'" for command in COMMANDS)
        sys.exit(
            "error: training and export need more packages: pip install 'da3[train,cpu]'. "
            f"What works without them: {known}"
        )
    if words[:1] == ["train"]:
        from da3.toolchain.process.settings import restart_settled

        restart_settled()
    from da3.toolchain.cli.commands import run

    run()


if __name__ == "__main__":
    main()
