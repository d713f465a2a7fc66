"""The picture of a run in its folder, made again as the run goes on."""

from __future__ import annotations

import time
from pathlib import Path

from da3.runtime.training import CURVES, Row
from da3.toolchain.curves.elsewhere import draw_elsewhere
from da3.toolchain.process.worker import WorkerError

DRAW_EVERY = 30.0  # seconds between pictures: each takes a process of its own about one


class HistoryPicture:
    """Draws ``curves.png`` in ``folder`` of the epochs that it is called with: of the last one, and now and then.

    ``title`` names the run in the picture.
    """

    def __init__(self, folder: Path, title: str):
        self.path, self.title = Path(folder) / CURVES, title
        self._drawn_at: float | None = None
        self._drawn = 0  # epochs in the last picture

    def __call__(self, history: list[Row], last: bool) -> str | None:
        """Returns why there is no new picture, in one line, where it could not be drawn."""
        now = time.monotonic()
        due = last or self._drawn_at is None or now - self._drawn_at > DRAW_EVERY
        if not due or len(history) == self._drawn:
            return None
        self._drawn_at, self._drawn = now, len(history)
        try:
            draw_elsewhere(self.path, {self.title: history})
        except WorkerError as error:
            return f"{self.path} was not drawn: {error}"
        return None
