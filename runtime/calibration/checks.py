"""What a choice of exits is worth: on photos that it was not chosen on, and against choices that are blind."""

from typing import Any, Dict, NamedTuple, Tuple

import numpy as np

from ..records import Array
from .answers import Answers, decide, outcome
from .choice import Goal, choose
from .confidence import calibration_error

REPEATS = 10  # halvings: one alone hangs on which photo falls where
PERMUTATIONS = 200


class CrossFit(NamedTuple):
    """Exits chosen on one half of the photos and asked about the other; each photo counts once in each halving.

    accuracy, cost, left: as in Outcome, means over halvings. last: accuracy if nobody left. static: that of the best
    choice that does not look at the picture, at the same cost. permuted: the mean accuracy of the same decisions dealt
    to the photos at random. errors: calibration error of each answer (K + 1,) with temperatures of the other half.
    met: share of the choices that could meet the goal on their own half.
    """

    accuracy: float
    cost: float
    left: Tuple[float, ...]
    last: float
    static: float
    permuted: float
    errors: Tuple[float, ...]
    met: float

    def facts(self, flops_share: float) -> Dict[str, Any]:
        """As a domain's description has them, under `cross_fit`. flops_share: the mean that ran, whatever the unit of
        `cost`."""
        return {
            "accuracy": self.accuracy,
            "flops_share": flops_share,
            "all_blocks_accuracy": self.last,
            "best_static_accuracy": self.static,
            "left": list(self.left),
            "calibration_errors": list(self.errors),
        }


class Permuted(NamedTuple):
    """The same decisions dealt to the photos at random. accuracy: mean over all permutations, exactly. p: share of
    permutations at least as accurate as the decisions, (1 + found) / (1 + tried): small if decisions look at the photo.
    """

    accuracy: float
    p: float


def halves(labels: Array, seed: int) -> Tuple[Array, Array]:
    """Indices of two halves of the photos, each class as evenly divided as can be. labels: integers (N,)."""
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="mergesort")]  # the sort that keeps the order of equals
    return np.sort(by_class[::2]), np.sort(by_class[1::2])


def cross_fit(answers: Answers, goal: Goal, seed: int = 0, repeats: int = REPEATS) -> CrossFit:
    """How a choice for `goal` does on photos that had no part in it. There must be two photos."""
    outcomes, errors, met = [], [], []
    for repeat in range(repeats):
        left = np.empty(len(answers.labels), dtype=np.int64)
        scaled = np.empty(answers.logits.shape)
        parts = halves(answers.labels, seed + repeat)
        for chosen_on, asked in (parts, parts[::-1]):
            choice = choose(answers.of(chosen_on), goal)
            left[asked] = decide(answers.logits[asked], choice.exits)
            scaled[asked] = answers.logits[asked] / np.array(choice.exits.temperatures)[:, None]
            met.append(choice.met)
        errors.append([calibration_error(scaled[:, number], answers.labels) for number in range(len(answers.costs))])
        outcomes.append(outcome(answers, left))
    accuracies = answers.right().mean(axis=0)
    shares = np.mean([found.left for found in outcomes], axis=0)
    cost = float(np.mean([found.cost for found in outcomes]))
    return CrossFit(
        accuracy=float(np.mean([found.accuracy for found in outcomes])),
        cost=cost,
        left=tuple(shares.tolist()),
        last=float(accuracies[-1]),
        static=best_static(answers.costs, accuracies, cost),
        permuted=float((shares * accuracies).sum()),
        errors=tuple(np.mean(errors, axis=0).tolist()),
        met=float(np.mean(met)),
    )


def best_static(costs: Array, accuracies: Array, cost: float) -> float:
    """Accuracy of the best choice at a mean cost of at most `cost` that does not look at the picture.

    costs, accuracies: (M,), of answers that all pictures may be given. A share of the pictures, drawn by lot, may be
    given one and the others another, so it is the upper concave hull over the points. Below the smallest cost it is
    that of the cheapest answer.
    """
    best = float(accuracies[np.argmin(costs)])
    for cheap, low in zip(costs, accuracies):
        if cheap > cost:
            continue
        best = max(best, float(low))
        for dear, high in zip(costs, accuracies):
            if dear > cost:
                best = max(best, float(low + (high - low) * (cost - cheap) / (dear - cheap)))
    return best


def permuted(answers: Answers, left: Array, seed: int = 0, permutations: int = PERMUTATIONS) -> Permuted:
    """What is left of the decisions, int64 (N,), when they cannot have looked at the photo: cost is the same."""
    right = answers.right()
    photos = np.arange(len(left))
    decided = right[photos, left].mean()
    random = np.random.RandomState(seed)
    dealt = [right[photos, random.permutation(left)].mean() for _ in range(permutations)]
    as_good = sum(int(accuracy >= decided) for accuracy in dealt)
    shares = np.bincount(left, minlength=right.shape[1]) / float(len(left))
    return Permuted(float((shares * right.mean(axis=0)).sum()), (1.0 + as_good) / (1.0 + permutations))
