"""What training costs by method: memory and time, each method in fresh processes that take turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from da3.runtime.system import conditions
from da3.toolchain.backbones import NAMES, load_weights, random_weights
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import Conditions, FailedMethod, TrainReport, TrainRow
from da3.toolchain.bench.variants import Variant
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning import ENGINE, ENGINES
from da3.toolchain.process.worker import Worker, WorkerError
from da3.toolchain.training.step_worker import CLASSES, PREPARED, Measured, Request
from da3.toolchain.training.train import device_named

WORKERS = {ENGINES[0]: "da3.toolchain.training.step_process", ENGINE: "da3.toolchain.learning.step_process"}


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """What to measure: ``rounds`` turns of all variants, each turn ``steps`` timed steps in a process of its own.

    ``weights``: "random", or what ``load_weights`` takes. ``size``: side of the images in pixels. ``batch``: images a
    step. ``threads``: CPU threads of each process; None leaves them to PyTorch.
    """

    variants: list[Variant]
    backbone: str = "resnet50"
    weights: str = "random"
    size: int = 224
    batch: int = 8
    steps: int = 4
    rounds: int = 3
    device: str = "cpu"
    threads: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise TrainingError naming the first option that makes no sense."""
        if self.backbone not in NAMES:
            raise TrainingError(f"--backbone {self.backbone}: known are {', '.join(NAMES)}")
        if self.size < 32 or self.size % 32:
            raise TrainingError(f"--size {self.size}: use a multiple of 32, such as 96, 128, 160 or 224")
        device_named(self.device)
        engine = next((v.engine for v in self.variants if v.engine != ENGINES[0]), None)
        if engine is not None and self.device != "cpu":
            raise TrainingError(f"--device {self.device}: {engine} learns on the CPU; leave --device out")

    def turns(self) -> Iterator[tuple[int, Variant]]:
        """Every process to start, in order: A B C A B C, so that all meet the same moods of the machine."""
        return ((turn, variant) for turn in range(self.rounds) for variant in self.variants)

    def request(self, variant: Variant, weights: str) -> Request:
        """What to ask of one process; it loads ``weights``."""
        return Request(
            method=variant.method,
            flops_budget=variant.flops_budget,
            memory=variant.memory,
            backbone=self.backbone,
            weights=weights,
            size=self.size,
            batch=self.batch,
            steps=self.steps,
            device=self.device,
            threads=self.threads,
            seed=self.seed,
        )


def bench_train(plan: TrainPlan, reporter: BenchReporter) -> TrainReport:
    """Measure every variant of ``plan``.

    A method whose process fails is in ``failed``, and left out of the rows and of what is still to measure. Raises
    TrainingError for a plan that makes no sense.
    """
    plan.check()
    found: dict[str, list[Measured]] = {variant.label: [] for variant in plan.variants}
    failed: dict[str, str] = {}
    total, done = plan.rounds * len(plan.variants), 0
    with random_or_named_weights(plan, reporter) as weights:
        for turn, variant in plan.turns():
            label, words = variant.label, f"round {turn + 1}/{plan.rounds}, {variant.label}"
            if label not in failed:
                try:
                    measured = _measure(plan, variant, weights, _Turn(words, done, total), reporter)
                except WorkerError as error:
                    failed[label] = str(error)
                    reporter.note(f"error: {label}: {error}")
                else:
                    found[label].append(measured)
                    reporter.note(f"{words}: {_in_short(measured)}")
            done += 1
    complete = {label: measurements for label, measurements in found.items() if label not in failed}
    errors: list[FailedMethod] = [{"method": label, "error": error} for label, error in failed.items()]
    return {"rows": _rows(complete, plan), "failed": errors, "conditions": _conditions(plan, found)}


@contextmanager
def random_or_named_weights(plan: TrainPlan, reporter: BenchReporter) -> Iterator[str]:
    """What the workers load their weights from: a file of random ones, or what the user named, once it is there."""
    if plan.weights != "random":
        load_weights(plan.weights, plan.backbone)
        yield plan.weights
        return
    reporter.at("writing random weights", 0, 1)
    with tempfile.TemporaryDirectory(prefix="da3-bench-") as folder:
        path = Path(folder) / "random.safetensors"
        weights = random_weights(plan.backbone, seed=plan.seed)
        save_file({k: v.contiguous() for k, v in weights.state.items()}, path, weights.metadata(plan.backbone))
        del weights
        yield str(path)


@dataclass(frozen=True)
class _Turn:
    """One process among ``total``, of which ``done`` are done; ``words`` name it to people."""

    words: str
    done: int
    total: int


def _measure(plan: TrainPlan, variant: Variant, weights: str, turn: _Turn, reporter: BenchReporter) -> Measured:
    """What one process finds. Raises WorkerError, in one line, where it fails."""
    reporter.at(f"{turn.words}: building", turn.done, turn.total)
    with Worker(WORKERS[variant.engine], plan.request(variant, weights).to_json(), plan.threads) as worker:
        for answer in worker.answers():
            if "measured" in answer:
                return Measured(**answer["measured"])
            step = answer["step"]
            what = f"step {step}/{plan.steps}" if step else "warmed up"
            reporter.at(f"{turn.words}: {what}", turn.done + (step + 1) / (plan.steps + 2), turn.total)
    raise WorkerError("its process ended without a result")


def _in_short(measured: Measured) -> str:
    return f"{statistics.median(measured.seconds):.3g} s a step, peak growth {measured.peak_growth_bytes / 1e6:,.0f} MB"


def _rows(found: Mapping[str, Sequence[Measured]], plan: TrainPlan) -> list[TrainRow]:
    """A row for each method from what its processes found, with its ratios to the first fine-tuning there is."""
    rows = [_row(label, measurements) for label, measurements in found.items()]
    labels = [variant.label for variant in plan.variants if variant.method == "finetune"]
    base = next((row for row in rows if row["method"] in labels), None)
    if base is not None:
        figures = _figures(base)
        for row in rows:
            row["ratios"] = {name: _ratio(value, figures[name]) for name, value in _figures(row).items()}
    return rows


def _row(label: str, measurements: Sequence[Measured]) -> TrainRow:
    """One method's figures from each of its processes."""
    seconds = [s for measured in measurements for s in measured.seconds]
    low, high = np.percentile(seconds, (25, 75))
    first = measurements[0]
    return {
        "method": label,
        "kept_bytes_per_image": _median([measured.kept_bytes_per_image for measured in measurements]),
        "peak_growth_bytes": statistics.median(measured.peak_growth_bytes for measured in measurements),
        "step_seconds_median": statistics.median(seconds),
        "step_seconds_iqr": float(high - low),
        "trainable_parameters": first.trainable_parameters,
        "domain_bytes": first.domain_bytes,
        "flops_share": first.flops_share,
        "step_seconds": seconds,
        "ratios": None,
    }


def _median(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def _figures(row: TrainRow) -> dict[str, float | None]:
    """What methods are compared by."""
    return {
        "kept_bytes_per_image": row["kept_bytes_per_image"],
        "peak_growth_bytes": row["peak_growth_bytes"],
        "step_seconds_median": row["step_seconds_median"],
        "trainable_parameters": row["trainable_parameters"],
        "domain_bytes": row["domain_bytes"],
    }


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _conditions(plan: TrainPlan, found: Mapping[str, Sequence[Measured]]) -> Conditions:
    first = next((measurements[0] for measurements in found.values() if measurements), None)
    return {
        **train_conditions(plan),
        "device": (first and first.device_name) or plan.device,
        "threads": first and first.threads,
        "classes": CLASSES,
        "prepared_on": min(PREPARED, plan.batch),
    }


def train_conditions(plan: TrainPlan) -> Conditions:
    """The machine, the versions, and what ``plan`` asks for."""
    settings = {v.label: {"keep": v.flops_budget, **v.memory.to_json()} for v in plan.variants if v.method == "da3"}
    return {
        **conditions(),
        "torch": torch.__version__,
        "device": plan.device,
        "threads": plan.threads,
        "backbone": plan.backbone,
        "weights": plan.weights,
        "size": plan.size,
        "batch": plan.batch,
        "rounds": plan.rounds,
        "steps": plan.steps,
        "seed": plan.seed,
        "levers": settings,
    }
