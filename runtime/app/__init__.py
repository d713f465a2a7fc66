"""The runtime's command line: of `python -m da3.runtime`, of run_engine.pyz, and of `da3` where torch is not needed."""

from .commands import COMMANDS, Command, is_for_the_runtime, main
from .commands import parser as command_parser
from .printing import warnings_in_a_line
from .zipapp import write_run_engine

__all__ = [
    "COMMANDS",
    "Command",
    "command_parser",
    "is_for_the_runtime",
    "main",
    "warnings_in_a_line",
    "write_run_engine",
]
