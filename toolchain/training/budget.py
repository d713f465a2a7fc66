"""``da3 train --memory-budget``: the memory settings that fit a budget, found by training a few steps with each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from da3.runtime.training import Reporter, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method
from da3.toolchain.process.worker import Worker
from da3.toolchain.training.step_worker import Measured, Request

WORKER = "da3.toolchain.training.step_process"
SMALL_GRIDS = (8, 4)


class Choice(NamedTuple):
    """What to try, in words and as a configuration."""

    words: str
    config: RunConfig


class _Change(NamedTuple):
    """The next value of a setting, also in words. The setting is the adaptors' ``grid`` or one of MemorySettings."""

    setting: str
    value: object
    words: str

    def made_to(self, config: RunConfig) -> RunConfig:
        if self.setting == "grid":
            return config._replace(adaptor=config.adaptor._replace(grid=self.value))  # type: ignore[arg-type]
        return config._replace(memory=config.memory._replace(**{self.setting: self.value}))  # type: ignore[arg-type]


def choices(config: RunConfig, fixed: frozenset[str]) -> Iterator[Choice]:
    """What to try, the least costly first; each choice keeps the changes of those before it.

    Memory settings named in ``fixed`` were set by the user and stay.
    """
    yield Choice("as it is", config)
    words: dict[str, str] = {}
    for change in _changes(config, fixed):
        config = change.made_to(config)
        words[change.setting] = change.words
        yield Choice(", ".join(words.values()), config)


def _changes(config: RunConfig, fixed: frozenset[str]) -> Iterator[_Change]:
    """What saves memory, in this order: smaller slices cost a little time; a coarser copy of the pooled inputs, a
    bfloat16 backbone and a coarser grid may cost accuracy."""
    sliceable, adaptors = method(config.method).sliceable, config.method == "da3"
    if sliceable and "micro_batch" not in fixed:
        yield _Change("micro_batch", 1, "one photo a slice")
    if adaptors and "keep_precision" not in fixed and config.memory.keep_precision != "int8":
        yield _Change("keep_precision", "int8", "pooled inputs kept in int8")
    if sliceable and "backbone_precision" not in fixed:
        yield _Change("backbone_precision", "bf16", "a backbone in bf16")
    for side in SMALL_GRIDS:
        if adaptors and side < config.adaptor.grid:
            yield _Change("grid", side, f"adaptors on a grid of {side} x {side}")


def fit(
    config: RunConfig, *, weights: str, device: str, budget: int, fixed: frozenset[str], reporter: Reporter
) -> RunConfig:
    """The first of ``choices`` whose measured peak is within ``budget`` bytes; ``reporter`` is told what was tried.

    The peak is what training adds to a process that has Python and PyTorch loaded, as ``da3 bench train`` measures it.
    Raises TrainingError with the smallest peak found where none fits.
    """
    reporter.note(
        f"memory budget {_mb(budget)}: measuring {config.method} on {config.backbone} at {config.size} px, "
        f"batches of {config.batch_size}"
    )
    smallest = None
    for words, choice in choices(config, fixed):
        peak, libraries = _measure(choice, weights, device)
        fits = peak <= budget
        reporter.note(f"  {words}: {_mb(peak)}{', which fits' if fits else ''}")
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


class Peak(NamedTuple):
    """Bytes that training adds to a process at most, and those that the process had before."""

    growth: int
    before: int


def _measure(config: RunConfig, weights: str, device: str) -> Peak:
    request = Request(
        method=config.method,
        flops_budget=config.keep,
        memory=config.memory,
        backbone=config.backbone,
        weights=weights,
        size=config.size,
        batch=config.batch_size,
        steps=1,
        device=device,
        threads=None,
        seed=0,
        classes=len(config.classes),
        adaptor=config.adaptor,
    )
    with Worker(WORKER, request.to_json()) as worker:
        for answer in worker.answers():
            if "measured" in answer:
                measured = Measured(**answer["measured"])
                return Peak(measured.peak_growth_bytes, measured.base_bytes)
    raise TrainingError("the memory of training could not be measured: its process ended without a result")


def _says(config: RunConfig) -> str:
    memory, grid = config.memory, config.adaptor.grid
    words = [f"--micro-batch {memory.micro_batch or 'auto'}"]
    if config.method == "da3":
        words += [f"--keep-precision {memory.keep_precision}", f"a grid of {grid} x {grid}"]
    return ", ".join([*words, f"--backbone-precision {memory.backbone_precision}"])


def _mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
