"""The largest slices of a batch with which the whole process of a run stays within a memory budget."""

import math
from typing import Callable, NamedTuple

from ..errors import TrainingError
from ..training.config import RunConfig
from ..training.reporter import Reporter
from ..training.short_run import ShortRun

TRIAL_EPOCHS = 2  # the first evaluation leaves some memory in pieces: from the second epoch on there is no more of it
MARGIN = 1.04  # a run over the peak of its trial: more photos are decoded, and for longer
MOST = 8  # photos a slice: what larger ones gain in time is not worth their memory

Peak = Callable[[ShortRun], int]  # bytes that a process which goes the short run holds at most


class Fitted(NamedTuple):
    """What fits. workers: how many photos are decoded at once."""

    config: RunConfig
    workers: int


def fit_budget(
    short: ShortRun,
    peak: Peak,
    *,
    budget: int,
    config: RunConfig,
    slices_fixed: bool,
    workers_fixed: bool,
    reporter: Reporter,
) -> Fitted:
    """`config` with slices, and how many photos are decoded at once, such that the whole process stays in `budget`
    bytes; the reporter is told what was tried.

    short: of the run, of TRIAL_EPOCHS. What a slice takes grows with its photos: two trials give the line, and another
    confirms what it promises. Raises TrainingError with the smallest budget that would do where none fits.
    """
    reporter.note("memory budget %s for the whole process: measuring short runs" % _mb(budget))

    def tried(photos: int, workers: int) -> int:
        held = math.ceil(MARGIN * peak(short.with_slices(photos)._replace(workers=workers)))
        fits = ", which fits" if held <= budget else ""
        reporter.note("  %d a slice, %d decoded at once: %s%s" % (photos, workers, _mb(held), fits))
        return held

    def chosen(photos: int, workers: int) -> Fitted:
        return Fitted(config._replace(memory=config.memory._replace(micro_batch=photos)), workers)

    least = config.memory.micro_batch or 1
    workers = short.workers
    smallest = tried(least, workers)
    if smallest > budget and workers > 1 and not workers_fixed:
        workers = 1
        smallest = min(smallest, tried(least, workers))
    if smallest > budget:
        raise TrainingError(
            "--memory-budget %s is too small for %s at %d px: the smallest that works is %s; a smaller --batch-size, "
            "or a backbone that is smaller or exported with a smaller --size, needs less"
            % (_mb(budget), config.backbone, config.size, _mb(smallest, up=True))
        )
    most = min(MOST, config.batch_size)
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
    return "{:,.0f} MB".format(math.ceil(count / 1e6) if up else count / 1e6)
