"""A bar on stderr for work that reports how far it is; in a log a line every few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID

from da3.runtime.training import Pace


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, unless it is to be ``quiet``; yields ``show(what, done, total)``."""
    console = Console(stderr=True, quiet=quiet)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}
        pace = Pace()

        def show(what: str, done: int, total: int) -> None:
            if not console.is_terminal:
                if pace.due():
                    console.print(f"{what}: {done} of {total}", markup=False, highlight=False, soft_wrap=True)
                return
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        yield show
