"""One training run in this process: ``python -m da3.toolchain.bench.accuracy_worker``, which parallel_runs starts."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from da3.runtime.system import stop_on_interrupt
from da3.toolchain.process.worker import Answer, Say, serve
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

SAY_EVERY = 0.5  # seconds between answers


class _SaysShare(SilentReporter):
    """Passes on how far the run is, as a share of its epochs."""

    def __init__(self, say: Say, epochs: int):
        self.say, self.epochs, self.said_at = say, epochs, 0.0

    def step(self, epoch: int, step: int, steps: int, sums: dict[str, float], memory: int) -> None:
        if time.monotonic() - self.said_at > SAY_EVERY:
            self.say({"done": (epoch + step / steps) / self.epochs})
            self.said_at = time.monotonic()


def _work(request: Answer, say: Say) -> None:
    options = TrainOptions(**{**request, "runs": Path(request["runs"])})
    assert options.epochs is not None, "an AccuracyPlan states it"
    with stop_on_interrupt(lambda words: print(words, file=sys.stderr)) as stop:
        result = train(options, _SaysShare(say, options.epochs), stop)
    say({"finished": result.finished})


if __name__ == "__main__":
    serve(_work, orphaned=signal.SIGTERM)
