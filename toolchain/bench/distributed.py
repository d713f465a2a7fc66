"""What a second process is worth: the same runs with one and with several, of one thread on one core each, in turns."""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from da3.runtime.system import conditions, usable_cpus
from da3.toolchain.bench.distributed_process import WARM
from da3.toolchain.bench.generated_photos import write_photos
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import Conditions, DistributedReport, DistributedRow
from da3.toolchain.errors import TrainingError
from da3.toolchain.process.worker import Worker, WorkerError
from da3.toolchain.training.options import TrainOptions

WORKER = "da3.toolchain.bench.distributed_process"
DOMAIN = "bench"
_GENERATED_STEPS = 16  # an epoch, where no photos are given


@dataclass(frozen=True, kw_only=True)
class DistributedPlan:
    """What to train: ``seeds`` runs of ``epochs`` at each of ``sizes``, by one process and by ``processes``.

    ``data``: photos of one domain; None generates some, whose accuracy means nothing. ``weights``: what
    ``da3 train --weights`` takes. ``with_threads``: also one process with as many threads.
    """

    data: str | None = None
    processes: int = 2
    sizes: tuple[int, ...] = (160,)
    batch: int = 16
    seeds: int = 3
    epochs: int = 1
    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    keep: float = 1.0
    with_threads: bool = False

    def check(self) -> None:
        """Raise TrainingError for a plan that makes no sense here."""
        cores = usable_cpus()
        if not 1 < self.processes <= cores:
            raise TrainingError(
                f"--processes {self.processes}: each is timed on a core of its own, and this machine gives {cores}"
            )
        for size in self.sizes:
            self.options("photos", size, 0, "runs").check()

    def options(self, data: str, size: int, seed: int, runs: str) -> TrainOptions:
        """Those of one run."""
        return TrainOptions(
            domain=DOMAIN,
            data=data,
            runs=Path(runs),
            backbone=self.backbone,
            weights=self.weights,
            size=size,
            epochs=self.epochs,
            batch_size=self.batch,
            keep=self.keep,
            seed=seed,
            workers=1,
            device="cpu",
            last_only=True,
        )


class _Case(NamedTuple):
    """So many processes, of so many threads on as many cores each."""

    processes: int
    threads: int = 1

    @property
    def words(self) -> str:
        return f"{self.processes} x {self.threads} thread{'s' if self.threads > 1 else ''}"


def bench_distributed(plan: DistributedPlan, reporter: BenchReporter) -> DistributedReport:
    """Measure ``plan``, seed by seed: one process and several take turns, each run from its start in fresh processes.

    Raises TrainingError for a plan that makes no sense, and WorkerError, in one line, where a run fails.
    """
    plan.check()
    cases = [_Case(1), _Case(plan.processes), *([_Case(1, plan.processes)] if plan.with_threads else [])]
    with _photos(plan) as data:
        total, done = len(cases) * plan.seeds * len(plan.sizes), 0
        rows = []
        for size in plan.sizes:
            found: dict[_Case, list[dict[str, Any]]] = {case: [] for case in cases}
            for seed in range(plan.seeds):
                for case in cases if seed % 2 == 0 else reversed(cases):
                    words = f"{size} px, seed {seed}, {case.words}"
                    reporter.at(words, done, total)
                    one = _run(plan, data, size, seed, case)
                    found[case].append(one)
                    done += 1
                    step = statistics.median(one["seconds"])
                    reporter.note(f"{words}: {1000 * step:.1f} ms a step, accuracy {one['accuracy']:.1%}")
            rows.append(_row(size, *found.values()))
    return {"processes": plan.processes, "rows": rows, "conditions": _conditions(plan)}


def _run(plan: DistributedPlan, data: str, size: int, seed: int, case: _Case) -> dict[str, Any]:
    """What the first process answers at its end. Raises WorkerError."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(usable_cpus()))
    with tempfile.TemporaryDirectory(prefix="da3-bench-") as runs, ExitStack() as stack:
        options = asdict(plan.options(data, size, seed, runs))
        request = {"size": case.processes, "port": _free_port(), "options": {**options, "runs": runs}}
        workers = []
        for rank in range(case.processes):
            own = {"rank": rank, "cores": cores[rank * case.threads : (rank + 1) * case.threads]}
            workers.append(stack.enter_context(Worker(WORKER, {**request, **own}, threads=case.threads)))
        for answer in workers[0].answers():
            if "seconds" in answer:
                if not answer["seconds"]:
                    raise WorkerError(f"an epoch has no more than {WARM} steps: give more photos, or a smaller batch")
                return answer
    raise WorkerError("a run's process ended without a result")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _row(
    size: int, alone: list[dict[str, Any]], several: list[dict[str, Any]], threads: Sequence[dict[str, Any]] = ()
) -> DistributedRow:
    """Steps are summed up by their median in each run, and runs are compared seed by seed."""
    one, many, threaded = ([statistics.median(run["seconds"]) for run in runs] for runs in (alone, several, threads))
    speed_ups = [a / b for a, b in zip(one, many, strict=True)]
    return {
        "size": size,
        "step_seconds_one": one,
        "step_seconds_several": many,
        "speed_up": statistics.median(speed_ups),
        "speed_ups": speed_ups,
        "step_seconds_threads": threaded,
        "bytes_a_step": int(statistics.median(count for run in several for count in run["sent"])),
        "exchange_seconds": statistics.median(spent for run in several for spent in run["exchanging"]),
        "accuracy_one": [run["accuracy"] for run in alone],
        "accuracy_several": [run["accuracy"] for run in several],
        "loss_one": [run["loss"] for run in alone],
        "loss_several": [run["loss"] for run in several],
    }


@contextmanager
def _photos(plan: DistributedPlan) -> Iterator[str]:
    if plan.data is not None:
        yield str(Path(plan.data).resolve())
        return
    with tempfile.TemporaryDirectory(prefix="da3-bench-") as folder:
        write_photos(Path(folder), _GENERATED_STEPS * plan.batch, plan.batch, 0)
        yield folder


def _conditions(plan: DistributedPlan) -> Conditions:
    return {
        **conditions(),
        "torch": torch.__version__,
        "backbone": plan.backbone,
        "weights": plan.weights,
        "batch": plan.batch,
        "keep": plan.keep,
        "epochs": plan.epochs,
        "seeds": plan.seeds,
        "photos": plan.data or "generated",
        "threads": "one a process, on a core of its own, unless it is said otherwise",
    }
