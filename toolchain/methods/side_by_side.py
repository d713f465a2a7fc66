"""Calls that are computed side by side, each by a thread with its share of the cores."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


class SideBySide:
    """Threads that share the cores which one operator would use, for as long as this lives.

    Threads that share each of a thousand small operators mostly wait for one another, and none shares what is not an
    operator.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._count = 0

    @property
    def cores(self) -> int:
        """How many there are to share."""
        return torch.get_num_threads()

    def each(self, work: Callable[[In], Out], items: Iterable[In], at_once: int) -> Iterator[Out]:
        """``work`` of each item, in order; no more than ``at_once`` are computed or wait to be taken.

        Raises what ``work`` raises, after what is being computed has ended.
        """
        if self._pool is None or self._count != at_once:
            self._pool, self._count = _threads(at_once, self.cores), at_once
        ahead: deque[Future[Out]] = deque()
        try:
            for item in items:
                if len(ahead) == at_once:
                    yield ahead.popleft().result()
                ahead.append(self._pool.submit(work, item))
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
            wait(ahead)


def _threads(count: int, cores: int) -> ThreadPoolExecutor:
    """So many threads, whose operators share so many cores out."""
    started = threading.Barrier(count)
    least, more = divmod(cores, count)

    def start(index: int) -> None:
        torch.get_num_threads()  # PyTorch gives a thread the number last set when it first asks, whatever it set before
        torch.set_num_threads(max(1, least + (index < more)))
        started.wait()

    threads = ThreadPoolExecutor(count, "slice")
    list(threads.map(start, range(count)))
    torch.set_num_threads(cores)  # as it was: PyTorch keeps the number last set for threads still to come
    return threads
