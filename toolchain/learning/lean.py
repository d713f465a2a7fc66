"""A domain that is learnt in a process which is to stay small."""

from __future__ import annotations

from da3.runtime.bundle import Bundle
from da3.runtime.learning import CpuRunning, GraphRunner, GraphTrainee
from da3.runtime.training import Predict, RunConfig
from da3.toolchain.learning.options import ENGINE
from da3.toolchain.process import Worker, forget_code

WORKER = "da3.toolchain.learning.answering_process"


class LeanRunning(CpuRunning):
    """On ENGINE, each graph made in a process of its own.

    Opening one runs some 15 MB of library code that running it does not: that is let go of. ``threads``: of the CPU;
    None takes those there are. ``photos``: of a slice; 0 for the usual ones.
    """

    def __init__(self, threads: int | None = None, photos: int = 0):
        super().__init__(ENGINE, threads, apart=True, photos=photos)

    def open(self, kind: str, bundle: Bundle, classes: int, closed: tuple[int, ...] = ()) -> GraphRunner:
        forget_code()
        runner = super().open(kind, bundle, classes, closed)
        forget_code()
        return runner


class LeanTrainee(GraphTrainee):
    """Has the graphs that answer made by another process too, which stores them in the bundle."""

    def __init__(self, bundle: Bundle, config: RunConfig, threads: int | None = None):
        super().__init__(bundle, config, LeanRunning(threads, config.memory.micro_batch))
        self.bundle, self.config = bundle, config
        self._stored: set[tuple[int, ...]] = set()  # the sets of closed blocks whose graphs are there

    def predict(self) -> Predict:
        closed = self.parameters.closed
        if closed not in self._stored:
            request = {"bundle": self.bundle.path, "config": self.config.to_json(), "closed": closed}
            with Worker(WORKER, request) as worker:
                for _ in worker.answers():
                    pass
            self._stored.add(closed)
        found = super().predict()
        forget_code()
        return found

    def predicted(self) -> None:
        super().predicted()
        forget_code()
