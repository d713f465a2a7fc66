"""A run's history on disk: ``metrics.jsonl`` for programs, ``curves.png`` for people."""

from __future__ import annotations

import json
import time
from pathlib import Path

from da3.runtime.system import write_atomically
from da3.runtime.training import Row
from da3.toolchain.curves import draw_elsewhere
from da3.toolchain.process.allocator import keep_freed_memory
from da3.toolchain.process.worker import WorkerError

DRAW_EVERY = 30.0  # seconds between pictures: each takes a process of its own about one


class Reports:
    """Keeps both up to date in ``folder``; ``title`` names the run in the picture."""

    def __init__(self, folder: Path, title: str):
        self.folder, self.title = folder, title
        self._drawn_at: float | None = None
        self._drawn = 0  # epochs in the last picture

    def write(self, history: list[Row], last: bool) -> str | None:
        """Write both, each atomically, from all epochs so far: the picture if it is the last, or some time has passed.

        Returns why there is no new picture, in one line, where it could not be drawn.
        """
        if not history:
            return None
        lines = "".join(json.dumps(row) + "\n" for row in history)
        write_atomically(self.folder / "metrics.jsonl", lines.encode())
        now = time.monotonic()
        due = last or self._drawn_at is None or now - self._drawn_at > DRAW_EVERY
        if not due or len(history) == self._drawn:
            return None
        # What no tensor uses goes back first, so that both processes together stay below the step's peak.
        keep_freed_memory()
        self._drawn_at, self._drawn = now, len(history)
        try:
            draw_elsewhere(self.folder / "curves.png", {self.title: history})
        except WorkerError as error:
            return f"{self.folder / 'curves.png'} was not drawn: {error}"
        return None
