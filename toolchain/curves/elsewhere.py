"""The picture drawn by a process of its own: matplotlib would keep some 30 MB of the process that trains."""

from __future__ import annotations

from pathlib import Path

from da3.runtime.training import Row
from da3.toolchain.process.worker import Worker

WORKER = "da3.toolchain.curves.picture_process"


def draw_elsewhere(path: Path, runs: dict[str, list[Row]]) -> None:
    """Write ``draw(runs)`` to ``path``, atomically. Raises WorkerError where that fails."""
    with Worker(WORKER, {"path": str(path), "runs": runs}) as worker:
        for _ in worker.answers():
            pass
