"""Training runs on a Ray cluster, which a wish to stop reaches: as ``ParallelRuns``, on other machines too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from da3.runtime.training.checkpoint import read
from da3.toolchain.bench.accuracy_plan import PlannedRun
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.scores import Key
from da3.toolchain.bench.trained import Trained
from da3.toolchain.errors import CheckpointError
from da3.toolchain.fleet import Connected, Fleet, Job, State
from da3.toolchain.fleet.board import FAILED, FINISHED
from da3.toolchain.fleet.plan import CACHE

_NOT_OPTIONS = ("runs", "resume", "overwrite")  # of a job: the node knows what is there


class FleetRuns:
    """Trains ``waiting`` on the cluster at ``address``, each run with ``cpus`` threads and ``gpus`` GPUs; ``shared`` is
    the folder of them all, which every node has to see. ``stop()`` says when to end early."""

    def __init__(
        self,
        waiting: Mapping[Key, PlannedRun],
        *,
        address: str,
        shared: str,
        cpus: int = 1,
        gpus: float = 0.0,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.waiting, self.keys = waiting, {str(key): key for key in waiting}
        jobs = [_job(key, run, cpus, gpus) for key, run in waiting.items()]
        self._fleet = Fleet(jobs, address=address, shared=[shared], stop=stop)

    def results(self, finished: int, reporter: BenchReporter) -> Iterator[tuple[Key, Trained | str]]:
        """As ``ParallelRuns`` gives them. Raises FleetError where no cluster answers, or it cannot do the runs."""
        total, running = finished + len(self.waiting), dict[str, float]()
        for event in self._fleet.events() if self.waiting else ():
            if isinstance(event, Connected):
                reporter.note(f"on a cluster of {len(event.nodes)} nodes: {', '.join(event.nodes)}")
            elif isinstance(event, State):
                if event.lost:
                    reporter.note(f"{event.name}: its node is gone; it goes on elsewhere from its last checkpoint")
                running[event.name] = event.done or 0.0
            else:
                running.pop(event.name, None)
                finished += 1
                key = self.keys[event.name]
                if event.state == FAILED:
                    yield key, event.why or "failed"
                elif event.state == FINISHED:
                    yield key, self._trained(key)
            words = ", ".join(f"{name} {done:.0%}" for name, done in running.items())
            reporter.at(f"{finished}/{total} runs; {words}", finished + sum(running.values()), total)

    def _trained(self, key: Key) -> Trained | str:
        try:
            return Trained.of(read(self.waiting[key].options.folder / "last.safetensors"))
        except (CheckpointError, OSError) as error:
            return str(error)


def _job(key: Key, run: PlannedRun, cpus: int, gpus: float) -> Job:
    options = {name: value for name, value in vars(run.options).items() if name not in _NOT_OPTIONS}
    return Job(
        name=str(key),
        options={**options, "data": run.options.data_folder()},
        runs=str(run.options.runs.absolute()),
        cache=CACHE,
        overwrite=run.options.overwrite,
        engine=run.engine,
        cpus=cpus,
        gpus=gpus,
    )
