"""``da3 train --engine onnxruntime --memory-budget``: the largest slices of a batch with which a whole run fits."""

from __future__ import annotations

import math

from da3.runtime.training import Reporter, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning.trial import Trial, measured_peak

MARGIN = 1.04  # a run over the peak of its trial: more photos are decoded, and for longer
MOST = 8  # photos a slice: what larger ones gain in time is not worth their memory


def fit(
    trial: Trial, *, budget: int, slices_fixed: bool, workers_fixed: bool, reporter: Reporter
) -> tuple[RunConfig, int]:
    """The configuration, and how many photos are decoded at once, with which the whole process stays in ``budget``
    bytes; ``reporter`` is told what was tried.

    What a slice takes grows with its photos: two trials give the line, and another confirms what it promises.
    Raises TrainingError with the smallest budget that would do where none fits.
    """
    whole, short = trial, trial.shortened()
    reporter.note(f"memory budget {_mb(budget)} for the whole process: measuring short runs")

    def tried(photos: int, workers: int) -> int:
        peak = math.ceil(MARGIN * measured_peak(short.with_slices(photos)._replace(workers=workers)))
        fits = ", which fits" if peak <= budget else ""
        reporter.note(f"  {photos} a slice, {workers} decoded at once: {_mb(peak)}{fits}")
        return peak

    def chosen(photos: int, workers: int) -> tuple[RunConfig, int]:
        return whole.with_slices(photos).config, workers

    least = whole.config.memory.micro_batch or 1
    workers = whole.workers
    smallest = tried(least, workers)
    if smallest > budget and workers > 1 and not workers_fixed:
        workers = 1
        smallest = min(smallest, tried(least, workers))
    if smallest > budget:
        raise TrainingError(
            f"--memory-budget {_mb(budget)} is too small for {whole.config.backbone} at {whole.config.size} px: the "
            f"smallest that works is {_mb(smallest, up=True)}; a smaller --size, --batch-size or --backbone needs less"
        )
    most = min(MOST, whole.config.batch_size)
    if slices_fixed or most < 2:
        return chosen(least, workers)
    second = tried(2, workers)
    if second > budget:
        return chosen(1, workers)
    photo = max(1, second - smallest)
    photos = min(most, 2 + (budget - second) // photo)
    while photos > 2 and tried(photos, workers) > budget:
        photos -= 1
    return chosen(photos, workers)


def _mb(count: float, up: bool = False) -> str:
    return f"{math.ceil(count / 1e6) if up else count / 1e6:,.0f} MB"
