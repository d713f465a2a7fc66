"""What training reaches by method: every method on every domain with every seed, each an ordinary training run."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from da3.runtime.system import conditions, write_atomically
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.bench.accuracy_plan import AccuracyPlan, PlannedRun
from da3.toolchain.bench.earlier_runs import trained_or_planned
from da3.toolchain.bench.fleet_runs import FleetRuns
from da3.toolchain.bench.learning_rates import choose_rates, reported
from da3.toolchain.bench.parallel_runs import ParallelRuns
from da3.toolchain.bench.plots import draw_accuracy
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import AccuracyReport, Conditions, FailedRun
from da3.toolchain.bench.scores import Key, Score, summarise, with_best_static
from da3.toolchain.bench.trained import Trained
from da3.toolchain.errors import TrainingError


def bench_accuracy(
    plan: AccuracyPlan, reporter: BenchReporter, stop: Callable[[], bool] = lambda: False
) -> AccuracyReport:
    """Train what is missing, ``plan.jobs`` runs at a time, and return the report that docs/bench.md describes.

    Runs that ``plan.out`` holds already are taken as they are, or resumed. Writes ``results.json`` and
    ``results.png`` there after each. When ``stop()`` turns true, the runs save and the report has ``remaining``
    above 0. Raises Da3Error, before anything is trained, if a run there was made with other options and
    ``plan.overwrite`` is off. A run that fails is in the report's ``failed``.
    """
    runs = plan.runs()
    weights = load_weights(plan.weights, plan.backbone)
    results = _Results(plan, runs=len(runs), setting=_conditions(plan, weights))
    waiting: dict[Key, PlannedRun] = {}
    for done, (key, run) in enumerate(runs.items()):
        reporter.at("looking at the runs there are", done, len(runs))
        found = trained_or_planned(key, run, weights, plan.overwrite)
        if isinstance(found, Trained):
            results.add(key, found)
        else:
            waiting[key] = found
    del weights
    if len(waiting) < len(runs):
        reporter.note(f"{len(runs) - len(waiting)} of {len(runs)} runs are there already")
    report = results.write()
    training = _training(plan, waiting, stop)
    for key, result in training.results(len(runs) - len(waiting), reporter):
        if isinstance(result, Trained):
            results.add(key, result)
            reporter.note(f"{key}: {result.last:.1%} after the last epoch, {result.best:.1%} after the best")
        else:
            results.failed[key] = result
            reporter.note(f"error: {key}: {result}")
        report = results.write()
    return report


def _training(plan: AccuracyPlan, waiting: dict[Key, PlannedRun], stop: Callable[[], bool]) -> ParallelRuns | FleetRuns:
    if plan.address is None:
        return ParallelRuns(waiting, jobs=plan.jobs, threads=plan.threads, stop=stop)
    return FleetRuns(
        waiting,
        address=plan.address,
        shared=str(plan.out.absolute()),
        cpus=plan.cpus,
        gpus=float(plan.device.startswith("cuda")),
        stop=stop,
    )


class _Results:
    """What was found so far. A run gives a score to every variant that its network serves."""

    def __init__(self, plan: AccuracyPlan, *, runs: int, setting: Conditions):
        self.plan, self.runs, self.setting = plan, runs, setting
        self.trained = 0
        self.scores: dict[Key, Score] = {}
        self.failed: dict[Key, str] = {}

    def add(self, key: Key, run: Trained) -> None:
        """Score a finished run."""
        self.trained += 1
        for variant in self.plan.variants:
            if variant.network == key.method:
                own = Key(variant.label, key.domain, key.seed)
                try:
                    self.scores[own] = Score.of(run, variant.flops_budget)
                except TrainingError as error:
                    self.failed[own] = str(error)

    def write(self) -> AccuracyReport:
        """The report so far, also as files once there is a score."""
        plan = self.plan
        choices = choose_rates(plan.variants, self.scores)
        methods = reported(plan.variants, choices)
        against = next((label for label in plan.baseline() if label in methods), None)
        errors: list[FailedRun] = [
            {"method": key.method, "domain": key.domain, "seed": key.seed, "error": error}
            for key, error in self.failed.items()
        ]
        report: AccuracyReport = {
            **summarise(methods, plan.domains, with_best_static(self.scores), against),
            "choices": choices,
            "against": against,
            "failed": errors,
            "remaining": self.runs - self.trained,
            "conditions": self.setting,
        }
        if self.scores:
            write_atomically(plan.out / "results.json", json.dumps(report, indent=1).encode())
            write_atomically(plan.out / "results.png", draw_accuracy(report))
        return report


def _conditions(plan: AccuracyPlan, weights: WeightsFile) -> Conditions:
    return {
        **conditions(),
        "torch": torch.__version__,
        "device": plan.device,
        "jobs": plan.jobs,
        "threads": plan.threads,
        "backbone": plan.backbone,
        "weights": plan.weights,
        "weights_sha256": weights.sha256(plan.backbone),
        "size": plan.size or weights.input_size,
        "epochs": plan.epochs,
        "batch": plan.batch_size or "da3 train's",
        "not_flipped": " ".join(plan.no_flip) or "none",
        "seeds": plan.seeds,
        "validated": "after the last epoch" if plan.last_only else "after each epoch",
    }
