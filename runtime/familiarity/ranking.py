"""How well own photos are told from others."""

import numpy as np

from ..records import Array


def area_under_curve(own: Array, others: Array) -> float:
    """The chance that one of the others, (M,), is stranger than one of the domain's own, (N,): the area under the
    receiver operating characteristic (Mann and Whitney 1947); ties count half, and 0.5 is a guess. Both are distances,
    or familiarities with a minus before them."""
    both = np.concatenate([own, others])
    _, where, counts = np.unique(both, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2.0)[where]
    more = ranks[len(own) :].sum() - len(others) * (len(others) + 1) / 2.0
    return float(more / (float(len(own)) * len(others)))


def passed_for_known(own: Array, others: Array, alarms: float = 0.05) -> float:
    """The share of the others that pass for known where `alarms` of the own photos are said to be unknown."""
    ordered = np.sort(own)
    limit = ordered[min(int(np.ceil((1 - alarms) * len(ordered))), len(ordered)) - 1]
    return float((others <= limit).mean())
