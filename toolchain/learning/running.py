"""How graphs are run in a process that is to stay small."""

from __future__ import annotations

from da3.runtime.bundle import Bundle
from da3.runtime.learning import GraphRunner, Running
from da3.toolchain.learning.options import ENGINE
from da3.toolchain.process import forget_code


class LeanRunning(Running):
    """On ENGINE, each graph made in a process of its own.

    Opening one runs some 15 MB of library code that running it does not: that is let go of. ``threads``: of the CPU;
    None takes those there are.
    """

    def __init__(self, threads: int | None = None):
        super().__init__(ENGINE, threads, apart=True)

    def open(self, kind: str, bundle: Bundle, classes: int, closed: tuple[int, ...] = ()) -> GraphRunner:
        forget_code()
        runner = super().open(kind, bundle, classes, closed)
        forget_code()
        return runner
