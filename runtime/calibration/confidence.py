"""How sure an answer is, and how far that can be trusted: softmax, temperatures, expected calibration error."""

from typing import NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..records import Array

BINS = 15  # of the calibration error, as in Guo et al.
# Temperatures lie between these. Where (almost) every photo is right the log loss falls for ever as T does.
COLDEST, HOTTEST = 0.1, 10.0
_POINTS = 41  # of each of the two passes of the search


def softmax(logits: Array) -> Array:
    """(..., classes) -> float64 of the same shape: exp(z) over its sum."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def confidence(logits: Array, temperature: Union[float, Array] = 1.0) -> Array:
    """(..., classes) -> float64 (...): the largest of softmax(logits / temperature), by which BranchyNet
    (arXiv 1709.01686), MSDNet (1703.09844) and Shallow-Deep Networks (1810.07052) let pictures leave."""
    largest: Array = softmax(logits / temperature).max(axis=-1)
    return largest


def fit_temperature(logits: Array, labels: Array) -> float:
    """The T for which softmax(logits / T) explains the labels best (Guo et al., arXiv 1706.04599).

    logits: (N, classes), finite. labels: integers (N,). It minimises

        -sum_n log softmax(z_n / T)[y_n] + (log T)^2 / 2

    The last term takes log T to be around 0 within 1: a dozen photos, all answered right, do not make T vanish.
    """
    scores = logits.astype(np.float64)
    scores = scores - scores.max(axis=1, keepdims=True)
    own = scores[np.arange(len(labels)), labels]

    def loss(log_t: float) -> float:
        cold = np.exp(-log_t)
        log_sums = np.log(np.exp(scores * cold).sum(axis=1))
        return float((log_sums - own * cold).sum()) + log_t**2 / 2

    low, high = np.log(COLDEST), np.log(HOTTEST)
    for _ in range(2):  # as 1 / T the log loss is convex, so the best point of a grid is next to the best of all
        grid = np.linspace(low, high, _POINTS)
        best = int(np.argmin([loss(log_t) for log_t in grid]))
        low, high = grid[max(0, best - 1)], grid[min(_POINTS - 1, best + 1)]
    return float(np.exp(grid[best]))


def fit_temperatures(logits: Array, labels: Array) -> Tuple[float, ...]:
    """(N, answers, classes), (N,) -> a temperature for each answer."""
    return tuple(fit_temperature(logits[:, answer], labels) for answer in range(logits.shape[1]))


def calibration_error(logits: Array, labels: Array, temperature: float = 1.0) -> float:
    """Expected calibration error (Guo et al., arXiv 1706.04599): how far confidence is from accuracy, 0 to 1.

    Photos are put in BINS bins of equal width by their confidence; |accuracy - mean confidence| of each bin, weighted
    by its photos. logits: (N, classes); labels: (N,).
    """
    return gap_error(reliability(confidence(logits, temperature), logits.argmax(axis=1) == labels))


class Bin(NamedTuple):
    """Photos whose confidence lies between low and high (the last bin has both ends). confidence, accuracy: means over
    them, None where there are none."""

    low: float
    high: float
    photos: int
    confidence: Optional[float]
    accuracy: Optional[float]


def reliability(sure: Array, right: Array) -> Tuple[Bin, ...]:
    """The BINS bins of equal width of a reliability diagram (Guo et al., figure 1).

    sure: float (N,), each photo's confidence, 0 to 1; right: bool (N,), whether its answer is the label.
    """
    bins = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, weights=values, minlength=BINS) for values in (sure, right)]
    found = []
    for number, count in enumerate(counts.tolist()):
        means = [float(total[number]) / count if count else None for total in sums]
        found.append(Bin(number / float(BINS), (number + 1) / float(BINS), count, means[0], means[1]))
    return tuple(found)


def gap_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error, 0 to 1: |accuracy - confidence| of each bin, weighted by its photos; there must be
    one."""
    gaps = 0.0
    for one in bins:
        if one.accuracy is not None and one.confidence is not None:
            gaps += one.photos * abs(one.accuracy - one.confidence)
    return gaps / sum(one.photos for one in bins)
