"""What a cluster costs and is worth: the same domains by a plain loop, by ``da3 fleet train``, and with a node lost.

The loop starts the process that a node starts for a domain, as many at a time as the cluster has CPUs, and bundles at
the end: what it does is the same, without Ray. It gives the runs that the cluster's are compared with, bit by bit.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from da3.runtime.errors import Da3Error
from da3.runtime.system import conditions, temporary_folder
from da3.toolchain.bench.accuracy_plan import domains_in
from da3.toolchain.bench.local_cluster import SETTINGS, LocalCluster
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import FleetBenchReport, KilledFleet
from da3.toolchain.bench.same_runs import different_packs, different_runs
from da3.toolchain.errors import TrainingError
from da3.toolchain.fleet import FleetPlan, Job, read_plan
from da3.toolchain.process.worker import Worker

_COMMAND = "da3.toolchain.cli.main"
_TRAINS = "da3.toolchain.fleet.training_process"
_BUNDLES = "da3.toolchain.fleet.bundle_process"
_POLL = 0.1


@dataclass(frozen=True, kw_only=True)
class FleetBenchPlan:
    """``count`` domains: the folders of ``data``, again and again with other seeds, on ``nodes`` of ``cpus``, a thread
    for each domain. ``rounds``: of the loop and the cluster, in turns. ``kill_at``: when so large a share of the
    domains is finished, a node is switched off in a run of its own; None for no such run."""

    data: Path
    count: int = 24
    nodes: int = 2
    cpus: int = 1
    epochs: int = 1
    size: int = 64
    backbone: str = "mobilenet_v2"
    weights: str = "demo"
    rounds: int = 1
    kill_at: float | None = 0.5

    def text(self) -> str:
        """The fleet's file."""
        folders = domains_in(self.data)
        weights = self.weights if self.weights in ("demo", "imagenet") else Path(self.weights).absolute()
        shared = {"weights": weights, "backbone": self.backbone, "size": self.size, "epochs": self.epochs}
        lines = ["out: out", "defaults:", *(f"  {name}: {value}" for name, value in shared.items()), "domains:"]
        for number in range(self.count):
            folder, seed = folders[number % len(folders)], number // len(folders)
            data = f"    data: {(self.data / folder).absolute()}"
            lines += [f"  {folder}-{seed}:", data, f"    seed: {seed}"]
        return "\n".join(lines) + "\n"


def bench_fleet(plan: FleetBenchPlan, reporter: BenchReporter) -> FleetBenchReport:
    """Measure, and compare every run. Raises Da3Error where a domain cannot be trained at all."""
    with temporary_folder("bench-fleet") as scratch:
        folder = Path(scratch)
        looped, clustered = [], []
        first: FleetPlan | None = None
        different: dict[str, list[str]] = {}
        for turn in range(plan.rounds):
            loop = _fleet(plan, folder / f"loop-{turn}")
            looped.append(_loop(plan, loop, reporter))
            first = loop if first is None else first
            fleet = _fleet(plan, folder / f"fleet-{turn}")
            with LocalCluster(plan.nodes, plan.cpus) as cluster:
                seconds, _ = _cluster(fleet, cluster, "fleet", reporter)
                clustered.append(seconds)
            different.update(_differences(first, fleet, f"round {turn + 1}"))
        killed = None
        if plan.kill_at is not None and first is not None:
            fleet = _fleet(plan, folder / "killed")
            with LocalCluster(plan.nodes, plan.cpus) as cluster:
                at = round(plan.kill_at * plan.count)
                seconds, again = _cluster(fleet, cluster, f"node lost after {at}", reporter, at)
            lost = _differences(first, fleet, "node lost")
            different.update(lost)
            killed = KilledFleet(
                seconds=seconds, killed_after=at, went_on=again, identical=plan.count - len(lost), finished=_done(fleet)
            )
    loop_s, fleet_s = statistics.median(looped), statistics.median(clustered)
    report: FleetBenchReport = {
        "domains": plan.count,
        "nodes": plan.nodes,
        "cpus": plan.cpus,
        "epochs": plan.epochs,
        "size": plan.size,
        "backbone": plan.backbone,
        "weights": plan.weights,
        "loop_seconds": looped,
        "fleet_seconds": clustered,
        "overhead": fleet_s / loop_s - 1,
        "killed": killed,
        "different": different,
        "conditions": conditions(),
    }
    return report


def _fleet(plan: FleetBenchPlan, folder: Path) -> FleetPlan:
    folder.mkdir(parents=True)
    file = folder / "fleet.yaml"
    file.write_text(plan.text())
    return read_plan(str(file))


def _loop(plan: FleetBenchPlan, fleet: FleetPlan, reporter: BenchReporter) -> float:
    """Seconds for all domains, a process each, and the bundle."""
    began, done = time.monotonic(), 0

    def one(job: Job) -> None:
        request = {
            "options": {**job.options, "runs": job.runs},
            "engine": job.engine,
            "threads": job.cpus,
            "pack": job.pack,
        }
        _finish(_TRAINS, request, job.cpus)

    Path(fleet.runs).mkdir(parents=True)
    with ThreadPoolExecutor(plan.nodes * plan.cpus) as pool:
        for _ in pool.map(one, fleet.jobs):
            done += 1
            reporter.at(f"loop: {done} of {plan.count} domains", done, plan.count)
    packs = str(Path(fleet.out, "packs"))
    names = [job.domain for job in fleet.jobs]
    bundle = str(Path(fleet.out, "bundle"))
    _finish(_BUNDLES, {"runs": fleet.runs, "packs": packs, "domains": names, "bundle": bundle})
    return time.monotonic() - began


def _finish(module: str, request: dict[str, object], threads: int | None = None) -> None:
    with Worker(module, request, threads) as worker:
        for _ in worker.answers():
            pass


def _cluster(
    fleet: FleetPlan, cluster: LocalCluster, words: str, reporter: BenchReporter, kill_after: int | None = None
) -> tuple[float, int]:
    """Seconds of the command, and how many domains went on after they were lost."""
    total = len(fleet.jobs)
    with _errors(Path(fleet.file).with_name("errors.txt")) as (file, said):
        began = time.monotonic()
        command = [sys.executable, "-m", _COMMAND, "fleet", "train", fleet.file, "--address", cluster.address]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=os.environ | SETTINGS)
        try:
            while process.poll() is None:
                time.sleep(_POLL)
                done = _done(fleet)
                reporter.at(f"{words}: {done} of {total} domains", done, total)
                if kill_after is not None and done >= kill_after:
                    kill_after = None
                    cluster.switch_off(1)
                    reporter.note(f"a node is switched off after {done} of {total} domains")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        seconds, lines = time.monotonic() - began, said().splitlines()
    if process.returncode:
        raise TrainingError(
            f"da3 fleet train ended with {process.returncode}: {lines[-1] if lines else 'without a word'}"
        )
    return seconds, len({line.split(":")[0] for line in lines if "goes on" in line})


@contextmanager
def _errors(path: Path) -> Iterator[tuple[int, Callable[[], str]]]:
    with open(path, "wb") as file:
        yield file.fileno(), path.read_text


def _done(fleet: FleetPlan) -> int:
    return sum(job.pack is not None and Path(job.pack).exists() for job in fleet.jobs)


def _differences(one: FleetPlan, other: FleetPlan, where: str) -> dict[str, list[str]]:
    """By domain what differs between two fleets' results."""
    found = {}
    for a, b in zip(one.jobs, other.jobs, strict=True):
        try:
            differs = different_runs(Path(a.runs, a.domain), Path(b.runs, b.domain))
            assert a.pack is not None and b.pack is not None
            differs += different_packs(Path(a.pack), Path(b.pack))
        except (Da3Error, OSError) as error:
            differs = [str(error)]
        if differs:
            found[f"{a.name}, {where}"] = differs
    return found
