"""Work done in threads ahead of whoever takes its results, in order, and never far ahead."""

from collections import deque
from typing import Any, Callable, Deque, Generator, Iterable, TypeVar

from .machine import usable_cpus

T = TypeVar("T")
R = TypeVar("R")


def done_ahead(make: Callable[[T], R], items: Iterable[T], workers: int, taken: int = 1) -> Generator[R, None, None]:
    """make(item) of each item, in order, made by `workers` threads (at least 1) ahead of its use.

    In flight are the next `taken` items, which are used at once (a batch), and no more than keeps every thread busy
    beyond them: memory does not grow with the number of items. Threads, not processes: Pillow decodes outside Python's
    lock, and a board has no memory for a process per worker. An error is raised where its item's turn is. When the
    generator is closed, by Ctrl-C too, what has not begun is not done.
    """
    from concurrent.futures import ThreadPoolExecutor  # not needed by every start, and slow to import

    workers = max(1, workers)
    pool = ThreadPoolExecutor(workers)
    waiting: Deque[Any] = deque()  # futures of results, in order
    coming = iter(items)
    try:
        while True:
            while len(waiting) < taken + 2 * workers:
                try:
                    item = next(coming)
                except StopIteration:
                    break
                waiting.append(pool.submit(make, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        # What has not begun need not be done. (The pool can be told so itself from Python 3.9 on.)
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True)


def default_workers() -> int:
    """One thread per core this process may use, four at most: for decoding photos."""
    return min(4, usable_cpus())
