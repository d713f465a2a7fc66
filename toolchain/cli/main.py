"""The ``da3`` console script: the whole command line, or the runtime's part of it on a device without typer."""

from __future__ import annotations

import importlib.util
import sys

from da3.toolchain.process.allocator import restart_without_holes


def main() -> None:
    """Entry point. Without typer (a device that only runs bundles), the runtime's commands still work."""
    words = sys.argv[1:]
    if importlib.util.find_spec("typer") is None:
        if words and words[0] in ("run-engine", "domains", "build", "doctor"):
            from da3.runtime.app.commands import main as runtime_main

            sys.exit(runtime_main(["run", *words[1:]] if words[0] == "run-engine" else words))
        sys.exit(
            "error: training and export need more packages: pip install 'da3[train,cpu]'. "
            "Without them, 'da3 run-engine', 'da3 domains', 'da3 build' and 'da3 doctor' work"
        )
    if words[:1] == ["train"]:
        restart_without_holes()
    from da3.toolchain.cli.commands import run

    run()


if __name__ == "__main__":
    main()
