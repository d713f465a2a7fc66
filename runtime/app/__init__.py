"""The runtime's command line: `python -m da3.runtime`, run_engine.pyz, and those commands of `da3` that need no torch."""

from .commands import COMMANDS, Command, is_for_the_runtime, main
from .zipapp import write_run_engine

__all__ = ["COMMANDS", "Command", "is_for_the_runtime", "main", "write_run_engine"]
