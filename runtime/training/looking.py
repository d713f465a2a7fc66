"""What the photos of a finished run look like to its domain, so that pictures of other things are told from them.

It is fitted to training photos, and calibrated on those that were held out: see familiarity/. All are looked at as they
are at inference, once, after the last epoch; a few hundred are enough, so no run takes much longer for it.
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..bundle.plan import LOGITS
from ..familiarity import FEWEST, calibrate, fit
from ..images.paths import evenly
from ..images.preprocess import Preprocessing
from ..records import ENERGY, Array, Familiar
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
) -> Optional[Familiar]:
    """What the photos look like. places: see `wanted_values`. None where there are too few of them, numbers are not
    finite, or it was stopped."""
    if not enough(train, held_out):
        return None
    names = sorted({name for terms in places for name in terms if name != ENERGY})

    def seen(photos: Sequence[Photo]) -> Optional[Seen]:
        return _seen(see, names, Loader(evenly(photos, MOST_PHOTOS), preprocessing, _BATCH, workers), stop)

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
    labels: List[Array] = []
    done = 0
    batches = loader.evaluation()
    try:
        for batch in batches:
            if stop():
                return None
            end = done + len(batch.labels)
            few = see(batch.pixels)
            for name in list(names) + [LOGITS]:
                if name not in values:
                    values[name] = np.empty((len(loader.photos),) + few[name].shape[1:], np.float32)
                values[name][done:end] = few[name]
            done = end
            labels.append(batch.labels)
    finally:
        batches.close()
    return Seen(values, values.pop(LOGITS), np.concatenate(labels))
