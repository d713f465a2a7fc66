"""What the photos of a finished run look like to its domain, so that pictures of other things are told from them.

It is fitted to training photos, and calibrated on those that were held out: see familiarity/. All are looked at as they
are at inference, once, after the last epoch; a few hundred are enough, so no run takes much longer for it.
"""

import json
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..bundle.plan import LOGITS
from ..familiarity import FEWEST, calibrate, fit
from ..images.paths import evenly
from ..images.preprocess import Preprocessing
from ..records import ENERGY, Array, Familiar
from .group import ALONE, Group
from .loading import Loader
from .photos import Photo
from .trainee import See

MOST_PHOTOS = 400  # of each kind
_BATCH = 16

Places = Sequence[Tuple[str, ...]]


class Seen(NamedTuple):
    """What classifiers read of some photos. values: by the plan's names, float32 (N, F) each; logits: float32
    (N, classes), of the last answer; labels: int64 (N,)."""

    values: Dict[str, Array]
    logits: Array
    labels: Array


def look(
    see: See,
    places: Places,
    train: Sequence[Photo],
    held_out: Sequence[Photo],
    preprocessing: Preprocessing,
    workers: int,
    stop: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
) -> Optional[Familiar]:
    """What the photos look like, of which each process of the group looks at its part. places: see `wanted_values`.
    None where there are too few of them, numbers are not finite, or it was stopped."""
    if not enough(train, held_out):
        return None
    names = sorted({name for terms in places for name in terms if name != ENERGY})

    def seen(photos: Sequence[Photo]) -> Optional[Seen]:
        batch = _BATCH * group.size
        return _seen(see, names, Loader(evenly(photos, MOST_PHOTOS), preprocessing, batch, workers, group), stop)

    found = seen(train)
    looks = None if found is None else fit(found.values, found.labels)
    if found is None or looks is None:
        return None
    fitted = len(found.labels)
    del found  # before the others are looked at
    others = seen(held_out)
    return None if others is None else calibrate(places, looks, others.values, others.logits, fitted)


def enough(train: Sequence[Photo], held_out: Sequence[Photo]) -> bool:
    """Whether there are photos enough to fit to, and to calibrate on."""
    return min(len(train), len(held_out)) >= FEWEST


def _seen(see: See, names: Sequence[str], loader: Loader, stop: Callable[[], bool]) -> Optional[Seen]:
    values: Dict[str, Array] = {}
    group, count, done = loader.group, len(loader.photos), 0
    batches = loader.evaluation()
    try:
        for batch in batches:
            if stop():
                return None
            part = group.part(batch.whole)
            few = see(batch.pixels) if len(batch.labels) else {}
            for name in (list(names) + [LOGITS]) if few else []:
                found = few[name]
                if name not in values:
                    values[name] = np.zeros((count,) + found.shape[1:], np.float32)
                values[name][done + part.start : done + part.stop] = found
            done += batch.whole
    finally:
        batches.close()
    # A process that had no photo does not know of how many numbers each value is; the first one always does.
    widths = json.loads(group.of_first(lambda: json.dumps({n: list(v.shape[1:]) for n, v in values.items()}).encode()))
    for name in sorted(widths):
        values[name] = group.joined(values.get(name, np.zeros([count] + widths[name], np.float32)))
    labels = np.array([label for _, label in loader.photos], np.int64)
    return Seen(values, values.pop(LOGITS), labels)
