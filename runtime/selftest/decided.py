"""What pictures are answered by known logits, and of which pictures rounding may decide otherwise."""

from typing import NamedTuple

import numpy as np

from ..calibration.confidence import confidence
from ..records import Array, Domain
from ..schedule.decisions import leaves

ROUNDING = 1e-6  # of probabilities that are 1 in float32


class Decided(NamedTuple):
    """What images are answered. logits: (N, classes), of the exit where each leaves. left: int64 (N,), that exit's
    number, or that of all exits where an image runs to the end. sure: bool (N,), images that no exit's rule is so close
    to letting go that rounding may decide it. margins: float64 (N, exits), by how much each exit's largest probability
    is above its threshold; NaN where nobody leaves."""

    logits: Array
    left: Array
    sure: Array
    margins: Array

    @classmethod
    def of(cls, answers: Array, domain: Domain, tolerance: float) -> "Decided":
        """By the rules of `domain`, from the logits of every exit and of the end: (N, exits + 1, classes).

        tolerance: by how much a logit may be off, as a share of the largest.
        """
        count, end = len(answers), answers.shape[1] - 1
        left, sure = np.full(count, end), np.ones(count, dtype=bool)
        margins = np.full((count, end), np.nan)
        for number, rule in reversed(list(enumerate(domain.exits))):
            if rule.threshold is None:
                continue
            logits = answers[:, number]
            left[leaves(logits, rule)] = number
            scaled = logits / rule.temperature
            # Where every logit moves by d at most, the largest probability p moves by 2 d p (1 - p), to first order.
            p, moved = confidence(logits, rule.temperature), tolerance * np.maximum(1, np.abs(scaled).max(1))
            margins[:, number] = p - rule.threshold
            sure &= np.abs(margins[:, number]) > 4 * moved * p * (1 - p) + ROUNDING
        return cls(answers[np.arange(count), left], left, sure, margins)

    @classmethod
    def all_at(cls, answers: Array, number: int) -> "Decided":
        """All images leave at this exit."""
        count = len(answers)
        none = np.zeros((count, 0))
        return cls(answers[:, number], np.full(count, number), np.ones(count, dtype=bool), none)
