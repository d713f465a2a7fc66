"""Figures of a stream that may run for months: percentiles in a fixed amount of memory."""

import math
from typing import List

_LEAST = 1e-5  # seconds: what is shorter counts as this
_STEP = math.log(1.01)  # each bucket is a hundredth longer than the one before
_BUCKETS = 1860  # up to 1,000 seconds


class Durations:
    """Counts durations by length, in buckets a hundredth wide: percentiles are right within half a hundredth."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._buckets: List[int] = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        place = int(math.log(max(seconds, _LEAST) / _LEAST) / _STEP)
        self._buckets[min(place, _BUCKETS - 1)] += 1

    def percentile(self, percent: float) -> float:
        """The duration, in seconds, that so many percent are no longer than; 0 without any."""
        wanted = math.ceil(self.count * percent / 100.0)
        passed = 0
        for place, count in enumerate(self._buckets):
            passed += count
            if count and passed >= wanted:
                return _LEAST * math.exp((place + 0.5) * _STEP)
        return 0.0
