"""What training costs by method: memory and time, each method in fresh processes that take turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from da3.runtime.system.machine import conditions
from da3.toolchain.backbones import NAMES, load_weights, random_weights
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.variants import Variant
from da3.toolchain.errors import TrainingError
from da3.toolchain.process.worker import Worker, WorkerError
from da3.toolchain.training.step_worker import CLASSES, PREPARED, Request
from da3.toolchain.training.train import device_named

CHILD = "da3.toolchain.training.step_process"
RATIOS = ("kept_bytes_per_image", "peak_growth_bytes", "step_seconds_median", "trainable_parameters", "domain_bytes")


@dataclass(frozen=True)
class Plan:
    """What to measure: ``rounds`` turns of all variants, each turn ``steps`` timed steps in a process of its own."""

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

    def turns(self) -> Iterator[tuple[int, Variant]]:
        """Every process to start, in order: A B C A B C, so that all meet the same moods of the machine."""
        return ((turn, variant) for turn in range(self.rounds) for variant in self.variants)

    def request(self, variant: Variant, weights: str) -> Request:
        return Request(
            method=variant.method, flops_budget=variant.keep, memory=variant.lean, backbone=self.backbone,
            weights=weights, size=self.size, batch=self.batch, steps=self.steps, device=self.device,
            threads=self.threads, seed=self.seed,
        )  # fmt: skip


def bench_train(plan: Plan, reporter: BenchReporter) -> dict[str, Any]:
    """Measure, and return {"rows": [...], "failed": [{"method", "error"}], "conditions": {...}}.

    A row has ``method``, the figures that docs/bench.md defines, ``flops_share``, ``step_seconds`` (all of them) and
    ``ratios`` (each figure over fine-tuning's; None where that was not measured). A method whose process fails is
    left out of the rows and of what is still to measure. Raises TrainingError for a plan that makes no sense.
    """
    plan.check()
    found: dict[str, list[dict[str, Any]]] = {v.label: [] for v in plan.variants}
    failed: dict[str, str] = {}
    total, done = plan.rounds * len(plan.variants), 0
    with _weights(plan, reporter) as weights:
        for turn, variant in plan.turns():
            label, words = variant.label, f"round {turn + 1}/{plan.rounds}, {variant.label}"
            if label not in failed:
                try:
                    measured = _measure(plan, plan.request(variant, weights), words, done, total, reporter)
                except WorkerError as error:
                    failed[label] = str(error)
                    reporter.note(f"error: {label}: {error}")
                else:
                    found[label].append(measured)
                    reporter.note(f"{words}: {_in_short(measured)}")
            done += 1
    rows = [_row(label, parts) for label, parts in found.items() if label not in failed]
    _add_ratios(rows, plan)
    return {
        "rows": rows,
        "failed": [{"method": label, "error": error} for label, error in failed.items()],
        "conditions": _conditions(plan, rows, found),
    }


@contextmanager
def _weights(plan: Plan, reporter: BenchReporter) -> Iterator[str]:
    """What the children load their weights from: a file of random ones, or what the user named, once it is there."""
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


def _measure(
    plan: Plan, request: Request, words: str, done: int, total: int, reporter: BenchReporter
) -> dict[str, Any]:
    reporter.at(f"{words}: building", done, total)
    with Worker(CHILD, request.to_json(), plan.threads) as worker:
        for answer in worker.answers():
            if "measured" in answer:
                return answer["measured"]
            step = answer["step"]
            what = f"step {step}/{plan.steps}" if step else "warmed up"
            reporter.at(f"{words}: {what}", done + (step + 1) / (plan.steps + 2), total)
    raise WorkerError("its process ended without a result")


def _in_short(measured: Mapping[str, Any]) -> str:
    seconds = statistics.median(measured["seconds"])
    return f"{seconds:.3g} s a step, peak growth {measured['peak_growth_bytes'] / 1e6:,.0f} MB"


def _row(label: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One method's figures from each of its processes."""
    seconds = [s for part in parts for s in part["seconds"]]
    low, high = np.percentile(seconds, (25, 75))
    kept = [part["kept_bytes_per_image"] for part in parts]
    return {
        "method": label,
        "kept_bytes_per_image": None if None in kept else statistics.median(kept),
        "peak_growth_bytes": statistics.median(part["peak_growth_bytes"] for part in parts),
        "step_seconds_median": statistics.median(seconds),
        "step_seconds_iqr": float(high - low),
        "trainable_parameters": parts[0]["trainable_parameters"],
        "domain_bytes": parts[0]["domain_bytes"],
        "flops_share": parts[0]["flops_share"],
        "step_seconds": seconds,
    }


def _add_ratios(rows: list[dict[str, Any]], plan: Plan) -> None:
    labels = [v.label for v in plan.variants if v.method == "finetune"]
    base = next((row for row in rows if row["method"] in labels), None)
    for row in rows:
        if base is None:
            row["ratios"] = None
        else:
            row["ratios"] = {k: row[k] / base[k] if row[k] is not None and base[k] else None for k in RATIOS}


def _conditions(plan: Plan, rows: list[dict[str, Any]], found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    first = next((parts[0] for parts in found.values() if parts), {})
    levers = {v.label: {"keep": v.keep, **v.lean.to_json()} for v in plan.variants if v.method == "da3"}
    return {
        **conditions(),
        "torch": torch.__version__,
        "device": first.get("device_name") or plan.device,
        "threads": first.get("threads"),
        "backbone": plan.backbone,
        "weights": plan.weights,
        "size": plan.size,
        "batch": plan.batch,
        "classes": CLASSES,
        "prepared_on": min(PREPARED, plan.batch),
        "rounds": plan.rounds,
        "steps": plan.steps,
        "seed": plan.seed,
        "levers": levers,
    }
