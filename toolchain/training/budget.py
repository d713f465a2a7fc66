"""``da3 train --memory-budget``: the memory settings that fit a budget, found by a short run with each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from da3.runtime.system import available_bytes
from da3.runtime.training import Reporter, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method
from da3.toolchain.training.trial import Trial

MARGIN = 1.05  # a run over the peak of its trial: more photos are decoded, and for longer
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


def fit(config: RunConfig, trial: Trial, *, budget: int, fixed: frozenset[str], reporter: Reporter) -> RunConfig:
    """The first of ``choices`` whose measured peak is within ``budget`` bytes; ``reporter`` is told what was tried.

    ``trial``: of a short run of ``config``.

    The peak is that of a whole process that trains, evaluates and writes, Python and PyTorch included, and a little
    more, since a run is longer than its trial; on a GPU, that of the GPU's memory. Raises TrainingError with the
    smallest peak found where none fits.
    """
    reporter.note(
        f"memory budget {_mb(budget)} for the whole process{_available(budget, trial.device)}: measuring "
        f"{config.method} on {config.backbone} at {config.size} px, batches of {config.batch_size}"
    )
    smallest = None
    for words, choice in choices(config, fixed):
        short = trial.short._replace(config=choice._replace(epochs=trial.short.config.epochs))
        peak = math.ceil(MARGIN * trial._replace(short=short).measured())
        fits = peak <= budget
        reporter.note(f"  {words}: {_mb(peak)}{', which fits' if fits else ''}")
        if fits:
            reporter.note(f"training with {_says(choice)}")
            return choice
        smallest = peak if smallest is None else min(smallest, peak)
    assert smallest is not None
    raise TrainingError(
        f"--memory-budget {_mb(budget)} is too small for {config.method} on {config.backbone} at {config.size} px in "
        f"batches of {config.batch_size}: the smallest that works is {_mb(smallest, up=True)}; "
        f"a smaller --size, --batch-size or --backbone needs less"
    )


def _available(budget: int, device: str) -> str:
    """A warning where the machine has less memory to give than the budget allows."""
    found = available_bytes()
    if found is None or found >= budget or device.startswith("cuda"):
        return ""
    return f" (this machine has only {_mb(found)} to give now)"


def _says(config: RunConfig) -> str:
    memory, grid = config.memory, config.adaptor.grid
    words = [f"--micro-batch {memory.micro_batch or 'auto'}"]
    if config.method == "da3":
        words += [f"--keep-precision {memory.keep_precision}", f"a grid of {grid} x {grid}"]
    return ", ".join([*words, f"--backbone-precision {memory.backbone_precision}"])


def _mb(count: float, up: bool = False) -> str:
    return f"{math.ceil(count / 1e6) if up else count / 1e6:,.0f} MB"
