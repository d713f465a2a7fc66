"""Processes that train together, as threads of one: the loop's and the trainer's side of it, without a launcher."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from da3.runtime.training import Group
from da3.toolchain.distributed import LostError
from da3.toolchain.errors import TrainingError
from da3.toolchain.process.launch import Launch


class Table:
    """Where the threads meet."""

    def __init__(self, size):
        self.said, self.barrier = [None] * size, threading.Barrier(size, timeout=60)


class ThreadGroup(Group):
    """One of ``Joined``'s, with the same words: ``rank`` of those at the ``table``."""

    def __init__(self, rank, table):
        self.rank, self.size, self._table = rank, len(table.said), table
        self.launch, self.device, self.sent = Launch(rank, self.size, rank, self.size), torch.device("cpu"), 0

    def _all(self, own):
        """What everybody says, by rank."""
        try:
            self._table.said[self.rank] = own
            self._table.barrier.wait()
            found = list(self._table.said)
            self._table.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise LostError("another has ended") from error
        return found

    def agree(self, wish):
        return any(self._all(wish))

    def joined(self, rows):
        return sum(self._all(rows.copy()))

    def of_first(self, say):
        return self._all(say() if self.first else None)[0]

    def check_equal(self, **facts):
        for rank, theirs in enumerate(self._all(facts)):
            if theirs != facts:
                raise TrainingError(f"process {rank} has other {' or '.join(facts)}")

    def total(self, tensors):
        self.sent += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        parts = self._all([tensor.detach().clone() for tensor in tensors])
        return [sum(few).view_as(tensor) for tensor, *few in zip(tensors, *parts, strict=True)]


def together(size, work):
    """What ``work(group)`` gives each of ``size`` threads, by rank; the first error by rank, that of a cause."""
    table = Table(size)

    def run(rank):
        try:
            return work(ThreadGroup(rank, table))
        except BaseException:
            table.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        waiting = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for error in (one.exception() for one in waiting) if error is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, LostError)):
        raise error
    return [one.result() for one in waiting]
