"""What time it would be: durations for the work that a program submits and waits for.

A model, with the durations that a test gives it, to compare one order of work with another. It measures nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Costs(NamedTuple):
    """Seconds. submit: of the host, for each engine or graph that it starts; delay: until the device can begin with it;
    note: of the host, for a copy, or a record of an event or a wait for one in a stream; wake: of the host, to go on
    after it has waited; work: of the device, for one piece of work."""

    submit: float
    delay: float
    note: float
    wake: float
    work: Callable[[Any], float]


class Clock:
    """now: the host's time. Set `Timeline.clock` to one; it counts from there on."""

    def __init__(self, costs: Costs):
        self.costs = costs
        self.now = 0.0
        self._ready: dict[Any, float] = {}  # stream -> when it is through with what it was given
        self._done: dict[Any, float] = {}  # (stream, number of its work)

    def spend(self, seconds: float) -> None:
        """The host computes."""
        self.now += seconds

    def launched(self, stream: Any, works: list) -> None:
        costs = self.costs
        begin = max(self.now + costs.delay, self._ready.get(stream, 0.0))
        self.now += costs.note if all(work.name.startswith("copy") for work in works) else costs.submit
        self._noted(stream, begin + sum(costs.work(work) for work in works))

    def recorded(self, stream: Any) -> None:
        self.now += self.costs.note
        self._noted(stream, self._ready.get(stream, 0.0))

    def ordered(self, stream: Any, other: Any, number: int) -> None:
        """The stream waits for a piece of another's work."""
        self.now += self.costs.note
        self._noted(stream, max(self._ready.get(stream, 0.0), self._done.get((other, number), 0.0)))

    def waited(self, stream: Any, number: int) -> None:
        """The host waits."""
        done = self._done.get((stream, number), 0.0)
        if done > self.now:
            self.now = done + self.costs.wake

    def _noted(self, stream: Any, at: float) -> None:
        self._ready[stream] = self._done[stream, stream.count] = at
