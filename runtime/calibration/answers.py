"""Answers of every exit to labelled photos, and what comes of letting each photo leave somewhere."""

from typing import NamedTuple, Optional, Tuple

import numpy as np

from ..records import Array, ExitRule
from ..schedule import leaves
from .confidence import confidence


class Answers(NamedTuple):
    """What N photos are answered with at each of K exits and at the end.

    logits: float (N, K + 1, classes), finite, in the order of running; the last answer is that of the whole network.
    labels: integers (N,). costs: float64 (K + 1,), ascending: what a photo costs that leaves there, as a share of the
    block FLOPs, in milliseconds, or in anything else that adds up.
    """

    logits: Array
    labels: Array
    costs: Array

    def right(self) -> Array:
        """bool (N, K + 1): is the answer the label?"""
        found: Array = self.logits.argmax(axis=2) == self.labels[:, None]
        return found

    def of(self, photos: Array) -> "Answers":
        """Those of some photos, by indices or bools."""
        return self._replace(logits=self.logits[photos], labels=self.labels[photos])


class Exits(NamedTuple):
    """thresholds: one for each exit; a photo leaves where its confidence is above. None: nobody leaves there.
    temperatures: one for each answer, the last one's too."""

    thresholds: Tuple[Optional[float], ...]
    temperatures: Tuple[float, ...]

    @property
    def rules(self) -> Tuple[ExitRule, ...]:
        """As a domain has them; the temperature of its last answer is `temperatures[-1]`."""
        return tuple(ExitRule(*both) for both in zip(self.thresholds, self.temperatures))


class Outcome(NamedTuple):
    """accuracy: 0 to 1. cost: mean over photos. left: share of the photos at each answer (K + 1,), the last one's
    being those that left nowhere."""

    accuracy: float
    cost: float
    left: Tuple[float, ...]


def confidences(logits: Array, temperatures: Tuple[float, ...]) -> Array:
    """(N, K + 1, classes) -> float64 (N, K): that of the exits."""
    exits = logits.shape[1] - 1
    return confidence(logits[:, :exits], np.array(temperatures[:exits]).reshape(1, -1, 1))


def decide(logits: Array, exits: Exits) -> Array:
    """int64 (N,): where each photo leaves, by the rule that the engine follows; K where it runs to the end. logits:
    (N, K + 1, classes)."""
    left = np.full(len(logits), len(exits.thresholds), dtype=np.int64)
    for number, rule in reversed(list(enumerate(exits.rules))):
        left[leaves(logits[:, number], rule)] = number
    return left


def outcome(answers: Answers, left: Array) -> Outcome:
    """What comes of leaving at `left`, int64 (N,)."""
    right = answers.right()[np.arange(len(left)), left]
    return Outcome(
        accuracy=float(right.mean()),
        cost=float(answers.costs[left].mean()),
        left=tuple((np.bincount(left, minlength=len(answers.costs)) / float(len(left))).tolist()),
    )
