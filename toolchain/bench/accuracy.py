"""What training reaches by method: every method on every domain with every seed, each an ordinary training run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import torch

from da3.runtime.system import conditions, write_atomically
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.bench.accuracy_plan import AccuracyPlan
from da3.toolchain.bench.earlier_runs import score_or_options
from da3.toolchain.bench.parallel_runs import ParallelRuns
from da3.toolchain.bench.plots import draw_accuracy
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import AccuracyReport, Conditions, FailedRun
from da3.toolchain.bench.scores import Key, Score, summarise
from da3.toolchain.training.options import TrainOptions


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
    scores: dict[Key, Score] = {}
    waiting: dict[Key, TrainOptions] = {}
    for done, (key, options) in enumerate(runs.items()):
        reporter.at("looking at the runs there are", done, len(runs))
        found = score_or_options(key, options, weights, plan.overwrite)
        if isinstance(found, Score):
            scores[key] = found
        else:
            waiting[key] = found
    setting = _conditions(plan, weights)
    del weights
    if scores:
        reporter.note(f"{len(scores)} of {len(runs)} runs are there already")
    failed: dict[Key, str] = {}
    report = _write(plan, len(runs), scores, failed, setting)
    training = ParallelRuns(waiting, jobs=plan.jobs, threads=plan.threads, stop=stop)
    for key, result in training.results(len(scores), reporter):
        if isinstance(result, Score):
            scores[key] = result
            reporter.note(f"{key}: {result.last:.1%} after the last epoch, {result.best:.1%} after the best")
        else:
            failed[key] = result
            reporter.note(f"error: {key}: {result}")
        report = _write(plan, len(runs), scores, failed, setting)
    return report


def _write(
    plan: AccuracyPlan, runs: int, scores: Mapping[Key, Score], failed: Mapping[Key, str], setting: Conditions
) -> AccuracyReport:
    """The report so far, also as files once there is a score."""
    errors: list[FailedRun] = [
        {"method": key.method, "domain": key.domain, "seed": key.seed, "error": error} for key, error in failed.items()
    ]
    report: AccuracyReport = {
        **summarise([v.label for v in plan.variants], plan.domains, scores),
        "failed": errors,
        "remaining": runs - len(scores),
        "conditions": setting,
    }
    if scores:
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
    }
