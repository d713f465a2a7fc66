"""The processes that train one run together, each on its part of every batch; a process by itself is a group of one.

What joins several, and carries their words and numbers, is the trainer's: see toolchain/distributed/. All of
them go through the same steps with the same parameters, so they also decide the same; the first one alone writes and
speaks.
"""

from typing import Callable

from ..records import Array


class Group:
    """This process by itself. Whoever joins several processes overrides all but `first` and `part`.

    All but these two are meetings: every process of the group makes the same calls in the same order, and none goes on
    before the others are there. Meetings raise TrainingError where another process has ended.
    """

    rank = 0  # the number of this process, from 0
    size = 1  # how many there are

    @property
    def first(self) -> bool:
        """Whether this process writes files, and tells people how it goes."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Which of `count` rows are this process's. All parts, by rank, are all rows in order; no two differ by more
        than one row, and the last are empty where there are fewer rows than processes."""
        least, more = divmod(count, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        return wish

    def joined(self, rows: Array) -> Array:
        """The rows of all, of an array float32 (N, ...) that has this process's rows where they belong, and zeros
        elsewhere. The array itself may be changed."""
        return rows

    def of_first(self, say: Callable[[], bytes]) -> bytes:
        """What the first process says, which alone is asked."""
        return say()

    def check_equal(self, **facts: str) -> None:
        """Raise TrainingError, naming the process and the fact, where one differs from the first process's. The names
        are words for people, with _ for blanks."""


ALONE = Group()
