"""How far long work has come, while it takes longer than a moment."""

import time
from typing import TextIO

_AFTER_S = 2.0
_REDRAWN_EVERY_S = 0.2
_LINE_EVERY_S = 10.0  # where nothing can be redrawn: in a log


class Progress:
    """A line on stderr that counts images, once the work takes more than two seconds.

    A terminal has one that changes; with `logged`, what is no terminal gets a new one every ten seconds.
    """

    def __init__(self, err: TextIO, total: int, what: str, logged: bool = False) -> None:
        """total: how many there are of `what`: paths, photos."""
        self._line = ProgressLine(err, logged)
        self._total = total
        self._what = what

    def show(self, done: int, failed: int) -> None:
        self._line.draw("%d images done, %d unreadable, %d %s" % (done, failed, self._total, self._what))

    def end(self) -> None:
        """Take the line off a terminal, so that what comes next stands alone."""
        self._line.end()


class ProgressLine:
    """A line on stderr, once the work takes more than two seconds: one that changes on a terminal; with `logged`, a new
    one every ten seconds elsewhere."""

    def __init__(self, err: TextIO, logged: bool = True) -> None:
        self._err = err
        self._start = time.time()
        self._drawn = 0.0
        self._live = err.isatty()
        self._every = _REDRAWN_EVERY_S if self._live else _LINE_EVERY_S
        self._shown = self._live or logged

    def draw(self, text: str) -> None:
        now = time.time()
        if not self._shown or now - self._start <= _AFTER_S or now - self._drawn <= self._every:
            return
        self._drawn = now
        self._err.write("\r%s" % text if self._live else text + "\n")
        self._err.flush()

    def end(self) -> None:
        """Take the line off a terminal, so that what comes next stands alone."""
        if self._drawn and self._live:
            self._err.write("\r%s\r" % (" " * 60))
