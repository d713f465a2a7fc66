"""One of the processes that `da3 bench distributed` times: ``python -m da3.toolchain.bench.distributed_process``.

It trains as ``da3 train`` does, alone or with others, on cores of its own, and answers what each step took.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from torch import Tensor

from da3.runtime.training import Reporter
from da3.toolchain.distributed import Joined, join
from da3.toolchain.process.launch import Launch
from da3.toolchain.process.worker import Answer, Say, serve
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.train import train

WARM = 3  # steps of an epoch that are not timed: photos are decoded ahead, and memory is not yet held


class _Watch(Reporter):
    """What each step took that follows another of its epoch, what it exchanged, and the seconds of that."""

    def __init__(self, say: Say, joined: Joined | None):
        self.say, self.joined = say, joined
        self.seconds: list[float] = []
        self.sent: list[int] = []
        self.exchanging: list[float] = []
        self.spent = 0.0  # in sums, since the step before
        self._before = (0.0, 0)
        if joined is not None:
            self._total = joined.total
            joined.total = self._timed  # type: ignore[method-assign]

    def _timed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        start = time.perf_counter()
        found = self._total(tensors)
        self.spent += time.perf_counter() - start
        return found

    def step(self, epoch: int, step: int, steps: int, sums: dict[str, float], memory: int) -> None:
        now, sent = time.perf_counter(), 0 if self.joined is None else self.joined.sent
        if step > WARM:
            self.seconds.append(now - self._before[0])
            self.sent.append(sent - self._before[1])
            self.exchanging.append(self.spent)
        self._before, self.spent = (time.perf_counter(), sent), 0.0
        self.say({"step": epoch * steps + step})


def _work(request: Answer, say: Say) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    rank, size = request["rank"], request["size"]
    options = TrainOptions(**{**request["options"], "runs": Path(request["options"]["runs"])})
    if size > 1:
        os.environ.update(
            RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(request["port"])
        )
    with join(Launch(rank, size, rank, size), "cpu") if size > 1 else nullcontext() as joined:
        watch = _Watch(say, joined)
        result = train(options, watch, joined=joined)
    best = result.best
    assert best is not None
    say(
        {
            "seconds": watch.seconds,
            "sent": watch.sent,
            "exchanging": watch.exchanging,
            "accuracy": best["val_accuracy"],
            "loss": best["val_loss"],
        }
    )


if __name__ == "__main__":
    serve(_work)
