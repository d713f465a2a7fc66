"""What running a batch takes: once, or several times for figures that vary less than those of one run."""

import time
from typing import Callable, List, NamedTuple, Set

from ..errors import ImageError
from ..records import Array, BatchResult

RunBatch = Callable[[Array], BatchResult]


class TimedResult(NamedTuple):
    """The result of a batch, and the seconds that each of its timed runs took."""

    result: BatchResult
    seconds: List[float]


def run_once(run_batch: RunBatch, batch: Array) -> TimedResult:
    """Run the batch and say what it took."""
    start = time.perf_counter()
    result = run_batch(batch)
    return TimedResult(result, [time.perf_counter() - start])


class Repeated:
    """Runs each batch `repeat` times, after `warmup` untimed runs before the first batch of each size.

    An engine's first runs of a size are slower: memory is reserved and kernels are chosen in them.
    """

    def __init__(self, repeat: int, warmup: int) -> None:
        if repeat < 1 or warmup < 0:
            raise ImageError("repeat must be at least 1, warmup at least 0")
        self._repeat = repeat
        self._warmup = warmup
        self._warm: Set[int] = set()

    def __call__(self, run_batch: RunBatch, batch: Array) -> TimedResult:
        if len(batch) not in self._warm:
            self._warm.add(len(batch))
            for _ in range(self._warmup):
                run_batch(batch)
        seconds: List[float] = []
        for _ in range(self._repeat):
            timed = run_once(run_batch, batch)
            seconds.extend(timed.seconds)
        return TimedResult(timed.result, seconds)
