"""One training run in this process: ``python -m da3.toolchain.bench.accuracy_worker``, spawned by bench_accuracy."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from da3.toolchain.process.interrupt import stop_on_interrupt
from da3.toolchain.process.worker import serve
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

SAY_EVERY = 0.5  # seconds


class _Says(SilentReporter):
    """Passes on how far the run is, as a share of its epochs."""

    def __init__(self, say: Callable[[dict[str, Any]], None], epochs: int):
        self.say, self.epochs, self.said_at = say, epochs, 0.0

    def step(self, epoch: int, step: int, steps: int, sums: dict[str, float], memory: int) -> None:
        if time.monotonic() - self.said_at > SAY_EVERY:
            self.say({"done": (epoch + step / steps) / self.epochs})
            self.said_at = time.monotonic()


def _work(request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    options = TrainOptions(**{**request, "runs": Path(request["runs"])})
    with stop_on_interrupt(lambda words: print(words, file=sys.stderr)) as stop:
        result = train(options, _Says(say, options.with_defaults.epochs), stop)
    say({"finished": result.finished})


if __name__ == "__main__":
    serve(_work, orphaned=signal.SIGTERM)
