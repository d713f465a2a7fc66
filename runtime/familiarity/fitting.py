"""What a domain's own photos look like: fitted to some, and calibrated on others that had no part in it.

For each value that is looked at: features of training photos divided by their length; a mean for each class, or one for
all where there are few photos; and the r directions in which photos differ most from their means (PCA). With l_j the
variance in direction v_j and l the mean of all that is left, the squared Mahalanobis distance times l is

    |u - m|^2 - sum over j of (1 - l / l_j) (v_j . (u - m))^2                    (l_j drawn a little towards the mean)

Mahalanobis distance of features: Lee et al., arXiv 1807.03888; of features of length one: Mueller and Hein,
arXiv 2505.18032. A covariance of few photos in many dimensions: probabilistic PCA, Tipping and Bishop 1999.
"""

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..records import ENERGY, Array, Familiar, Look, LookPlace
from .asking import distances, energies, look_distances, of_length_one

DIRECTIONS = 16
PHOTOS_A_CLASS = 4  # with fewer on average, one mean stands for all classes
DRAWN = 0.1  # to the mean variance
FEWEST = 20  # held-out photos: of fewer, 5 % is less than one
FALSE_ALARMS = 0.05  # the share of the domain's own photos that is said to be unknown
KNOTS = 32


def wanted_values(exits: Sequence[str], last: str) -> Tuple[Tuple[str, ...], ...]:
    """The terms of each place: of every exit, and of the end. exits: the plan's names of the features that exits read;
    last: of those that the head reads. What the first exit sees tells noise and emptiness best, later features tell
    other things from the domain's; the energy of early answers tells nothing."""
    first = tuple(exits[:1])
    places = [first + ((name,) if name not in first else ()) for name in exits]
    return tuple(places) + (first + (last, ENERGY),)


def fit(train: Dict[str, Array], labels: Array) -> Optional[Dict[str, Look]]:
    """How training photos look by each value: float32 (N, F) each, by name; labels: int64 (N,), their classes. To be
    calibrated. None where there are too few, or numbers are not finite."""
    if len(labels) < FEWEST or not all(np.isfinite(found).all() for found in train.values()):
        return None
    return {name: fit_look(found, labels) for name, found in sorted(train.items())}


def calibrate(
    places: Sequence[Tuple[str, ...]],
    looks: Dict[str, Look],
    held_out: Dict[str, Array],
    logits: Array,
    fitted: int,
    limit: float = FALSE_ALARMS,
) -> Optional[Familiar]:
    """What photos of the domain look like.

    places: see `wanted_values`. looks: fitted to so many photos. held_out: the same values of others, (M, F); logits:
    float32 (M, classes), their last answers. limit: the share of them that shall be said to be unknown. None as for
    `fit`.
    """
    finite = all(np.isfinite(found).all() for found in list(held_out.values()) + [logits])
    if len(logits) < FEWEST or not finite:
        return None
    own = {name: _standardised(look, held_out[name]) for name, look in looks.items()}
    familiar = Familiar(
        limit=limit, looks=own, energy=_centre_and_scale(energies(logits)), places=(), photos=(fitted, len(logits))
    )
    found: List[LookPlace] = []
    for terms in places:
        place = LookPlace(terms, ())
        found.append(place._replace(knots=knots(distances(familiar, place, held_out, logits))))
    return familiar._replace(places=tuple(found))


def fit_look(features: Array, labels: Array) -> Look:
    """From features (N, F) of training photos; `centre` and `scale` are not set. Numbers are those of float16, as they
    are stored, so that what is calibrated is what runs."""
    unit = of_length_one(features)
    classes, place = np.unique(labels, return_inverse=True)
    if len(labels) < PHOTOS_A_CLASS * len(classes):
        classes, place = classes[:1], np.zeros(len(labels), np.int64)
    means = np.stack([unit[place == i].mean(axis=0, dtype=np.float64) for i in range(len(classes))])
    for i, mean in enumerate(means):
        unit[place == i] -= mean.astype(np.float32)
    directions = _directions(unit).astype(np.float16).astype(np.float64)
    across = means.dot(directions.T)
    rows = (means - across.dot(directions)).astype(np.float16)
    offsets = (means**2).sum(axis=1) - (across**2).sum(axis=1)
    return Look(
        rows=np.concatenate([rows, directions.astype(np.float16)]).astype(np.float32),
        offsets=offsets.astype(np.float16).astype(np.float32),
        centre=0.0,
        scale=1.0,
    )


def _directions(rest: Array) -> Array:
    """B (r, F): see the module. rest: float32 (N, F), what is left of the features once their means are taken out."""
    count, width = rest.shape
    # The small one of the two products has the same eigenvalues.
    product = rest.dot(rest.T) if count < width else rest.T.dot(rest)
    variances, vectors = np.linalg.eigh(product.astype(np.float64) / count)
    total = float(variances.sum())
    taken = min(DIRECTIONS, count // 2, width // 2)
    variances, vectors = variances[::-1][:taken], vectors[:, ::-1][:, :taken]
    if count < width:
        vectors = rest.T.dot(vectors.astype(np.float32)).astype(np.float64)
        vectors = vectors / np.maximum(np.sqrt((vectors**2).sum(axis=0)), 1e-12)
    mean = total / width
    left = (1 - DRAWN) * max(total - float(variances.sum()), 0.0) / (width - taken) + DRAWN * mean
    drawn = (1 - DRAWN) * np.maximum(variances, 0) + DRAWN * mean
    weight = np.maximum(1 - left / np.maximum(drawn, 1e-30), 0)
    found: Array = vectors.T * np.sqrt(weight)[:, None]
    return found


def _standardised(look: Look, held_out: Array) -> Look:
    centre, scale = _centre_and_scale(look_distances(look, held_out))
    return look._replace(centre=centre, scale=scale)


def _centre_and_scale(found: Sequence[float]) -> Tuple[float, float]:
    values = np.array(found)
    return float(values.mean()), float(max(values.std(), 1e-6))


def knots(far: Sequence[float]) -> Tuple[Tuple[float, float], ...]:
    """(share, distance) of held-out photos, distances ascending: of M photos, a new one is expected to be at least as
    far as the i-th farthest with a chance of i / (M + 1) (split conformal prediction, Vovk et al. 2005)."""
    ordered = np.sort(far)
    count = len(ordered)
    ranks = np.unique(np.round(np.geomspace(1, count, KNOTS)).astype(int))[::-1]
    return tuple((float(i) / (count + 1), float(ordered[count - i])) for i in ranks)
