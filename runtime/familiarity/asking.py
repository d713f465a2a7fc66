"""How strange a photo looks to a domain, and which share of the domain's own photos look as strange.

With u the features of a photo divided by their length, m_k the mean of class k's and B orthogonal directions, each as
long as it is to count less (see fitting.py), the distance of a *look* is

    d = min over k of |u - m_k|^2 - |B (u - m_k)|^2 = |u|^2 - |B u|^2 + min over k of (offset_k - 2 m'_k . u)

which is one product of the features with the rows m'_k and B. The *energy* is -log sum exp of the last logits. Each is
taken from its mean over held-out photos, and divided by their deviation; the mean of a place's terms is a photo's
distance there.

Beside those products it is all done in Python, photo by photo: after a network has run nothing is in the caches, and
numpy's functions then take several times as long for a few numbers.
"""

from bisect import bisect_left
from math import exp, isfinite, log, nan, sqrt
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..records import ENERGY, Array, Familiar, Look, LookPlace
from ..schedule.decisions import spread_one

_SHORTEST = 1e-12
_FARTHEST = 700.0  # exp(-700) is still a number


class Asking:
    """Asks about photos of a domain one by one; what is the same for all of them is made once."""

    def __init__(self, familiar: Familiar) -> None:
        self._energy = familiar.energy
        self._looks = {name: (_Rows.of(look), look.centre, look.scale) for name, look in familiar.looks.items()}
        self._places = [(place.terms, _Shares.of(place)) for place in familiar.places]

    def shares(self, left: Sequence[int], values: Dict[str, Array], logits: Array) -> List[float]:
        """For each of B photos the share of the domain's own that look as strange where it left, or stranger, 0 to 1;
        0 where a feature or a logit is no number.

        left: the exit where each left, or how many exits there are. values: the plan's values by name, float32 (B, F);
        of a photo, those behind the place where it left are not read. logits: float32 (B, classes), of that place.
        """
        last = len(self._places) - 1  # of a domain without exits, whatever exits the bundle has
        found: List[float] = []
        for i, number in enumerate(left):
            terms, shares = self._places[min(number, last)]
            total = 0.0
            for name in terms:
                if name == ENERGY:
                    (term,), (centre, scale) = energies(logits[i : i + 1]), self._energy
                else:
                    rows, centre, scale = self._looks[name]
                    (term,) = rows.distances(values[name][i : i + 1])
                total += (term - centre) / scale
            found.append(shares.at(total / len(terms)))
        return found


def is_known(familiar: Familiar, share: float, limit: Optional[float] = None) -> bool:
    """Whether a photo counts as one of the domain's. limit: in the place of the domain's own."""
    return share >= (familiar.limit if limit is None else limit)


def distances(familiar: Familiar, place: LookPlace, values: Dict[str, Array], logits: Array) -> List[float]:
    """How strange each of B photos looks at a place. NaN where a feature or a logit is no number."""
    total = [0.0] * len(logits)
    for name in place.terms:
        if name == ENERGY:
            term = energies(logits)
            centre, scale = familiar.energy
        else:
            look = familiar.looks[name]
            term = look_distances(look, values[name])
            centre, scale = look.centre, look.scale
        total = [sum_ + (one - centre) / scale for sum_, one in zip(total, term)]
    return [one / len(place.terms) for one in total]


def look_distances(look: Look, features: Array) -> List[float]:
    """d of the module's formula for each row of float32 features (B, F)."""
    return _Rows.of(look).distances(features)


class _Rows(NamedTuple):
    """A look as the module's formula reads it."""

    columns: Array
    offsets: List[float]

    @classmethod
    def of(cls, look: Look) -> "_Rows":
        return cls(look.rows.T, look.offsets.tolist())

    def distances(self, features: Array) -> List[float]:
        means = len(self.offsets)
        found: List[float] = []
        for row, square in zip(features.dot(self.columns).tolist(), squares(features).tolist()):
            length = max(sqrt(square), _SHORTEST) if isfinite(square) else nan
            nearest = min([offset - 2 * one / length for offset, one in zip(self.offsets, row)])
            along = sum([one * one for one in row[means:]])
            found.append((square - along) / (length * length) + nearest)
        return found


def of_length_one(features: Array) -> Array:
    """float32 (B, F), each row divided by its length; zeros stay zeros."""
    unit: Array = features / np.maximum(np.sqrt(squares(features)), _SHORTEST).astype(np.float32)[:, None]
    return unit


def squares(rows: Array) -> Array:
    """float64 (B,): the sum of each row's squares; no array of the rows' size is made."""
    found: Array = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return found


def energies(logits: Array) -> List[float]:
    """-log sum exp of each row of logits (B, classes) (Liu et al., arXiv 2010.03759): low where one of them is high."""
    found: List[float] = []
    for i in range(len(logits)):
        one = logits[i : i + 1]
        spread = spread_one(one, 1.0)  # sum of exp(logit - largest)
        found.append(-float(one.max()) - log(spread) if isfinite(spread) else nan)
    return found


class _Shares(NamedTuple):
    """The knots of a place: the share of the domain's own photos that are at least so far."""

    shares: Tuple[float, ...]
    far: Tuple[float, ...]

    @classmethod
    def of(cls, place: LookPlace) -> "_Shares":
        return cls(*zip(*place.knots))

    def at(self, distance: float) -> float:
        """See `share_at`."""
        shares, far = self
        if not isfinite(distance):
            return 0.0
        at = bisect_left(far, distance)
        if at == 0:
            return float(shares[0])
        if at == len(far):
            return float(shares[-1] * exp(-min(distance - far[-1], _FARTHEST)))
        part = (distance - far[at - 1]) / (far[at] - far[at - 1])
        return float(shares[at - 1] + part * (shares[at] - shares[at - 1]))


def share_at(place: LookPlace, distance: float) -> float:
    """The share of the domain's own photos that are at least so far, between the knots of the place on straight lines.
    Beyond the farthest it halves with every 0.7 of a deviation, so that even there the stranger of two photos has less.
    0 where the distance is no number."""
    return _Shares.of(place).at(distance)
