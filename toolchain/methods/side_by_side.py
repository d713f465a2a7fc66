"""Calls that are computed side by side, each by a thread with one core to itself."""

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
    """As many threads as PyTorch uses for one operator at the time of the first call, for as long as this lives.

    Threads that share each of a thousand small operators mostly wait for one another, and none shares what is not an
    operator. One thread that has an operator to itself also adds in the same order on every machine.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    @property
    def threads(self) -> int:
        """How many threads there are, or would be."""
        return torch.get_num_threads()

    def each(self, work: Callable[[In], Out], items: Iterable[In], at_once: int) -> Iterator[Out]:
        """``work`` of each item, in order; no more than ``at_once`` are computed or wait to be taken.

        Raises what ``work`` raises, after what is being computed has ended.
        """
        if self._pool is None:
            self._pool = _threads_of_one_core(self.threads)
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


def _threads_of_one_core(count: int) -> ThreadPoolExecutor:
    """So many threads, whose operators use no others."""
    started = threading.Barrier(count)

    def start(_: int) -> None:
        torch.get_num_threads()  # PyTorch gives a thread the number last set when it first asks, whatever it set before
        torch.set_num_threads(1)
        started.wait()

    threads = ThreadPoolExecutor(count, "slice")
    list(threads.map(start, range(count)))
    torch.set_num_threads(count)  # as it was: PyTorch keeps the number last set for threads still to come
    return threads
