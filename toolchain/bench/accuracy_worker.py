"""One training run in this process: ``python -m da3.toolchain.bench.accuracy_worker``, which parallel_runs starts."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from da3.runtime.system import stop_on_interrupt
from da3.runtime.training import Reporter
from da3.toolchain.learning import ENGINES, EngineOptions, learn_on_engine
from da3.toolchain.process.worker import Answer, Say, serve
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.train import train

SAY_EVERY = 0.5  # seconds between answers


class _SaysShare(Reporter):
    """Passes on how far the run is, as a share of its epochs."""

    def __init__(self, say: Say, epochs: int):
        self.say, self.epochs, self.said_at = say, epochs, 0.0

    def step(self, epoch: int, step: int, steps: int, sums: dict[str, float], memory: int) -> None:
        if time.monotonic() - self.said_at > SAY_EVERY:
            self.say({"done": (epoch + step / steps) / self.epochs})
            self.said_at = time.monotonic()


def _work(request: Answer, say: Say) -> None:
    asked = request["options"]
    reporter = _SaysShare(say, asked["epochs"])
    with stop_on_interrupt(lambda words: print(words, file=sys.stderr)) as stop:
        if request["engine"] == ENGINES[0]:
            finished = train(TrainOptions(**{**asked, "runs": Path(asked["runs"])}), reporter, stop).finished
        else:
            own = {name: asked[name] for name in EngineOptions._fields if name in asked}
            finished = learn_on_engine(EngineOptions(**own, threads=request["threads"]), reporter, stop).finished
    say({"finished": finished})


if __name__ == "__main__":
    serve(_work, orphaned=signal.SIGTERM)
