"""What a benchmark shows while it measures: a bar where there is a terminal, and a line for each that is done."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class BenchReporter(Protocol):
    """Whoever is told how a benchmark goes."""

    def at(self, text: str, done: float, total: float) -> None:
        """``done`` of ``total`` measurements are done; ``text`` says which one is being made."""

    def note(self, text: str) -> None:
        """A line that stays."""


class ConsoleBenchReporter:
    """Reports to people on stderr; it is used as a context manager, so that the bar always ends cleanly."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=None)

    def __enter__(self) -> ConsoleBenchReporter:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def at(self, text: str, done: float, total: float) -> None:
        self.bar.update(self.task, description=text, completed=done, total=total)

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)


class SilentBenchReporter:
    """Says nothing: for use as a library."""

    def at(self, text: str, done: float, total: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass
