"""Training runs in processes of their own, some at a time, which a wish to stop reaches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from da3.runtime.training.checkpoint import read
from da3.toolchain.bench.accuracy_plan import PlannedRun
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.scores import Key
from da3.toolchain.bench.trained import Trained
from da3.toolchain.errors import CheckpointError
from da3.toolchain.process.worker import Worker, WorkerError

WORKER = "da3.toolchain.fleet.training_process"
POLL = 0.2  # seconds between looks at a wish to stop

_Outcome = Trained | str | None  # None: the run was stopped


@dataclass
class _Running:
    """A run in progress; ``done`` is the share of it that is done."""

    worker: Worker
    done: float = 0.0


class ParallelRuns:
    """Trains ``waiting``, ``jobs`` runs at a time with ``threads`` threads each; ``stop()`` says when to end early."""

    def __init__(
        self, waiting: Mapping[Key, PlannedRun], *, jobs: int, threads: int, stop: Callable[[], bool] = lambda: False
    ):
        self.waiting, self.jobs, self.threads, self.stop = waiting, jobs, threads, stop
        self._running: dict[Key, _Running] = {}
        self._closed = threading.Event()

    def results(self, finished: int, reporter: BenchReporter) -> Iterator[tuple[Key, Trained | str]]:
        """What each run reached, or what went wrong in one line, as it ends. A run that was stopped gives nothing.

        ``finished``: how many other runs the reporter is to count as done.
        """
        total = finished + len(self.waiting)
        pool = ThreadPoolExecutor(self.jobs)
        asked = False
        try:
            futures: dict[Future[_Outcome], Key] = {pool.submit(self._train, key): key for key in self.waiting}
            while futures:
                for future in wait(futures, POLL, FIRST_COMPLETED).done:
                    key, result = futures.pop(future), future.result()
                    finished += 1
                    if result is not None:
                        yield key, result
                running = dict(self._running)
                if self.stop() and not asked:
                    asked = True
                    for run in running.values():
                        run.worker.ask_to_stop()
                words = ", ".join(f"{key} {run.done:.0%}" for key, run in running.items())
                reporter.at(
                    f"{finished}/{total} runs; {words}", finished + sum(run.done for run in running.values()), total
                )
        finally:
            self._closed.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for run in list(self._running.values()):
                run.worker.kill()
            pool.shutdown()

    def _train(self, key: Key) -> _Outcome:
        """Called in a thread of the pool, which follows one process."""
        if self.stop() or self._closed.is_set():
            return None
        options, engine = self.waiting[key]
        request = {"options": {**vars(options), "runs": str(options.runs)}, "engine": engine, "threads": self.threads}
        try:
            with Worker(WORKER, request, self.threads) as worker:
                run = self._running[key] = _Running(worker)
                if self._closed.is_set():
                    return None
                for answer in worker.answers():
                    run.done = answer.get("done", run.done)
            found = read(options.folder / "last.safetensors")
            return Trained.of(found) if found.progress.finished(found.config) else None
        except (WorkerError, CheckpointError, OSError) as error:
            return None if self.stop() else str(error)
        finally:
            self._running.pop(key, None)
