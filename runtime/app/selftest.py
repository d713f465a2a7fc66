"""The command `selftest`: options in, a line for each finding, a report, and an exit code."""

import argparse
import sys
from typing import List, Tuple

from ..errors import printable
from ..selftest import PASS, Listener, Report, SelftestOptions, run_in_child, run_selftest
from .doctor import examine, render
from .printing import say

_WIDTH = 100  # characters of the line that says what is being done


def selftest_and_say(words: argparse.Namespace) -> int:
    """Returns the exit code: 0 if nothing failed."""
    options = SelftestOptions(**{name: getattr(words, name) for name in SelftestOptions._fields})
    report = Report(words.out, options)
    lines = _Lines()
    try:
        result = run_selftest(options, report, Listener(lines.line, lines.doing), __name__)
    finally:
        lines.clear()
    counts = report.counts()
    say("%s: %s" % (result, ", ".join("%d %s" % (count, status) for status, count in counts.items())))
    say("report: %s, and as text %s" % (printable(report.path), printable(report.text_path)))
    return 0 if result == PASS else 1


def child(words: List[str]) -> int:
    """What the process of a stage does; its exit code."""
    return run_in_child(words, _doctor)


def _doctor() -> Tuple[str, List[str]]:
    report = examine()
    return render(report), report.problems


class _Lines:
    """Lines that stay, on stdout, and on a terminal one on stderr that is written over."""

    def __init__(self) -> None:
        self._shown = False

    def line(self, text: str) -> None:
        self.clear()
        say(printable(text))

    def doing(self, text: str) -> None:
        if sys.stderr.isatty():
            self.clear()
            sys.stderr.write("\r... %s" % printable(text)[:_WIDTH])
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r%s\r" % (" " * (_WIDTH + 4)))
            sys.stderr.flush()
            self._shown = False
