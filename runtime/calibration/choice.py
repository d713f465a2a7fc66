"""Levels of confidence for a goal.

One number, the level, sets the thresholds of all exits, compared with confidences whose temperatures were fitted:

    1 - threshold_k = (1 - level) w_k        w_k evenly spaced from 1 - SPREAD at the first exit to 1 + SPREAD

so earlier exits are asked to be surer. On validation photos of 24 networks that generalised best. A threshold of its
own for each exit, fitted to a hundred photos, lost up to a point at equal cost. Margin or entropy in the place of the
largest probability, scores learnt from both and from agreement (EENet, arXiv 2301.07099), averages of passed exits, and
asking two exits to agree gained nothing, or lost where most pictures leave.
"""

from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from ..records import Array
from .answers import Answers, Exits, Outcome, confidences, decide, outcome
from .confidence import fit_temperatures, softmax

SPREAD = 0.25
MOST_LEVELS = 400  # that are tried
NOBODY = 1.0  # no confidence is above it
_SUREST = 1 - 1e-6  # of the other levels: beyond, float32 cannot tell confidences apart
_ROUNDING = 1e-9


class Goal(NamedTuple):
    """One of the two. max_drop: the accuracy, 0 to 1, that may be lost against the last answer; costs are to be as
    small as they can. most_cost: the mean cost, in the unit of Answers.costs; accuracy is to be as large as it can."""

    max_drop: Optional[float] = None
    most_cost: Optional[float] = None


class Point(NamedTuple):
    """One level, at most NOBODY: its accuracy and mean cost on the photos, and its mean of `expected_drops`."""

    level: float
    accuracy: float
    cost: float
    expected_drop: float


class Choice(NamedTuple):
    """level: see the module; NOBODY if nobody is to leave. outcome: on the photos that it was chosen on.

    met: whether the goal can be had. Where it cannot, level, exits and outcome are the nearest that can be.
    """

    level: float
    exits: Exits
    outcome: Outcome
    met: bool


def choose(answers: Answers, goal: Goal) -> Choice:
    """Temperatures, and the level that meets `goal` on these photos.

    max_drop: the cheapest level at which neither the drop found on the photos nor the expected one is above the goal.
    The drop that was found hangs on the two or three photos that decide it: chosen by it alone, levels for half a point
    lost 1.6 points on other photos; with the expected one too, 0.3.
    """
    temperatures = fit_temperatures(answers.logits, answers.labels)
    points = curve(answers, temperatures)
    if goal.most_cost is not None:
        near = [point for point in points if point.cost <= goal.most_cost + _ROUNDING]
        best = max(near, key=lambda point: point.level) if near else points[0]
        return _choice(answers, temperatures, best.level, bool(near))
    if goal.max_drop is None:
        raise ValueError("a goal has max_drop or most_cost")
    last = points[-1].accuracy
    near = [p for p in points if max(last - p.accuracy, p.expected_drop) <= goal.max_drop + _ROUNDING]
    best = min(near, key=lambda point: point.cost) if near else points[-1]
    return _choice(answers, temperatures, best.level, bool(near))


def exits_at(level: float, temperatures: Tuple[float, ...]) -> Exits:
    """Where pictures leave at a level."""
    weights = _weights(len(temperatures) - 1)
    if level >= NOBODY:
        return Exits((None,) * len(weights), temperatures)
    return Exits(tuple(np.maximum(0.0, 1 - (1 - level) * weights).tolist()), temperatures)


def _weights(exits: int) -> Array:
    return np.linspace(1 - SPREAD, 1 + SPREAD, exits) if exits > 1 else np.ones(exits)


def curve(answers: Answers, temperatures: Tuple[float, ...]) -> List[Point]:
    """What each of at most MOST_LEVELS levels gives on the photos, from where all leave at the first exit to NOBODY.

    Accuracy may go up and down along it, cost only up.
    """
    sure = 1 - (1 - confidences(answers.logits, temperatures)) / _weights(len(temperatures) - 1)
    levels = _levels(sure)
    left = np.full((len(levels), len(sure)), sure.shape[1], dtype=np.int64)
    for number in reversed(range(sure.shape[1])):
        left[sure[:, number] > levels[:, None]] = number
    photos = np.arange(len(sure))
    accuracies = answers.right()[photos, left].mean(axis=1)
    drops = expected_drops(answers.logits, temperatures)[photos, left].mean(axis=1)
    costs = answers.costs[left].mean(axis=1)
    return [Point(*(float(value) for value in row)) for row in zip(levels, accuracies, costs, drops)]


def expected_drops(logits: Array, temperatures: Tuple[float, ...]) -> Array:
    """float64 (N, K + 1), 0 to 1: what taking each answer should cost in accuracy, in the eyes of the last one.

    With P = softmax(last logits / temperature) it is P[class of the last answer] - P[class of this answer]: 0 where
    both agree. It is an expectation over what the label may be, so it needs no label and varies less than counting
    which photos were right.
    """
    probabilities = softmax(logits[:, -1] / temperatures[-1])
    classes = logits.argmax(axis=2)
    chosen = probabilities[np.arange(len(logits))[:, None], classes]
    drops: Array = chosen[:, -1:] - chosen
    return drops


def _levels(sure: Array) -> Array:
    """float64, ascending: halfway between neighbours of the levels at which a photo's decision changes, so that float32
    and float64 decide alike; thinned evenly."""
    lowest = 1 - 1 / _weights(sure.shape[1])[0]  # the first exit's threshold is 0 there
    found = np.unique(np.concatenate([[lowest], sure.ravel(), [NOBODY]]))
    between = np.unique(np.minimum((found[1:] + found[:-1]) / 2, _SUREST))
    if len(between) > MOST_LEVELS - 2:
        between = between[np.linspace(0, len(between) - 1, MOST_LEVELS - 2).astype(np.int64)]
    return np.concatenate([[lowest], between, [NOBODY]])


def _choice(answers: Answers, temperatures: Tuple[float, ...], level: float, met: bool) -> Choice:
    exits = exits_at(level, temperatures)
    return Choice(level, exits, outcome(answers, decide(answers.logits, exits)), met)
