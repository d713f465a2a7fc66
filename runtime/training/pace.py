"""How often a log is told how far something is."""

import time

LOG_EVERY = 10.0  # seconds between the lines of a log that nobody watches


class Pace:
    """Says when the next line is due: `every` seconds after the last, the first after as many."""

    def __init__(self, every: float = LOG_EVERY) -> None:
        self._every, self._last = every, time.monotonic()

    def due(self) -> bool:
        """Whether it is; it is not again for as long."""
        now = time.monotonic()
        if now - self._last < self._every:
            return False
        self._last = now
        return True
