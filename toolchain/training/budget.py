"""``da3 train --memory-budget``: the levers that fit a budget, found by training a few steps of each choice."""

from __future__ import annotations

from collections.abc import Iterator

from da3.runtime.training.config import MemorySettings, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method
from da3.toolchain.process.worker import Worker
from da3.toolchain.training.progress import Reporter
from da3.toolchain.training.step_worker import Request

WORKER = "da3.toolchain.training.step_process"
SMALL_GRIDS = (8, 4)


def choices(config: RunConfig, fixed: frozenset[str]) -> Iterator[tuple[str, RunConfig]]:
    """What to try, the least costly first, each with its name; levers in ``fixed`` were set by the user and stay.

    Smaller slices cost a little time; a coarser copy of the pooled inputs, a bfloat16 backbone and a coarser grid
    may cost accuracy, in this order.
    """
    learner = method(config.method)
    levers: list[tuple[str, dict[str, object]]] = [("as it is", {})]
    if learner.sliceable:
        levers += [("one photo a slice", {"micro_batch": 1})] * ("micro_batch" not in fixed)
        levers += [("a backbone in bf16", {"backbone_precision": "bf16"})] * ("backbone_precision" not in fixed)
    if config.method == "da3":
        keep = [("pooled inputs kept in int8", {"keep_precision": "int8"})] * ("keep_precision" not in fixed)
        levers[2:2] = keep if config.memory.keep_precision != "int8" else []
        levers += [(f"adaptors on a grid of {n} x {n}", {"grid": n}) for n in SMALL_GRIDS if n < config.adaptor.grid]
    names: list[str] = []
    for name, change in levers:
        names = [n for n in names if "grid" not in change or "grid" not in n] + [name] * bool(change)
        lean = {k: v for k, v in change.items() if k != "grid"}
        grid = change.get("grid", config.adaptor.grid)
        config = config._replace(
            memory=config.memory._replace(**lean),  # type: ignore[arg-type]
            adaptor=config.adaptor._replace(grid=grid),  # type: ignore[arg-type]
        )
        yield ", ".join(names) or name, config


def fit(
    config: RunConfig, weights: str, device: str, budget: int, fixed: frozenset[str], reporter: Reporter
) -> RunConfig:
    """The first of ``choices`` whose measured peak is within ``budget`` bytes; says what was tried, and why that.

    The peak is what training adds to a process that has Python and PyTorch loaded, as ``da3 bench train`` measures it.
    Raises TrainingError with the smallest peak found where none fits.
    """
    reporter.note(
        f"memory budget {_mb(budget)}: measuring {config.method} on {config.backbone} at {config.size} px, "
        f"batches of {config.batch_size}"
    )
    smallest = None
    for name, choice in choices(config, fixed):
        peak, libraries = _measure(choice, weights, device)
        fits = peak <= budget
        reporter.note(f"  {name}: {_mb(peak)}{', which fits' if fits else ''}")
        if fits:
            reporter.note(
                f"training with {_says(choice)}; with Python and PyTorch itself the process takes about "
                f"{_mb(peak + libraries)}"
            )
            return choice
        smallest = peak if smallest is None else min(smallest, peak)
    assert smallest is not None
    raise TrainingError(
        f"--memory-budget {_mb(budget)} is too small for {config.method} on {config.backbone} at {config.size} px in "
        f"batches of {config.batch_size}: the smallest that works is about {_mb(smallest * 1.02)}; "
        f"a smaller --size, --batch-size or --backbone needs less"
    )


def _measure(config: RunConfig, weights: str, device: str) -> tuple[int, int]:
    """Peak growth, and what the process had before, in bytes."""
    request = Request(
        method=config.method, flops_budget=config.keep, memory=config.memory, backbone=config.backbone,
        weights=weights, size=config.size, batch=config.batch_size, steps=1, device=device, threads=None, seed=0,
        classes=len(config.classes), adaptor=config.adaptor,
    )  # fmt: skip
    with Worker(WORKER, request.to_json()) as worker:
        for answer in worker.answers():
            if "measured" in answer:
                return answer["measured"]["peak_growth_bytes"], answer["measured"]["base_bytes"]
    raise TrainingError("the memory of training could not be measured: its process ended without a result")


def _says(config: RunConfig) -> str:
    memory: MemorySettings = config.memory
    words = [f"--micro-batch {memory.micro_batch or 'auto'}"]
    if config.method == "da3":
        words += [
            f"--keep-precision {memory.keep_precision}",
            f"a grid of {config.adaptor.grid} x {config.adaptor.grid}",
        ]
    return ", ".join([*words, f"--backbone-precision {memory.backbone_precision}"])


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
