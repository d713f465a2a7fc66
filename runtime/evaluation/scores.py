"""Scores from answers: accuracy, precision and recall, calibration, and what answers cost, by class and by exit."""

import math
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ..calibration import Bin, gap_error, reliability
from ..records import Array
from ..system.percentiles import percentiles_ms
from .answering import Evaluation

TOP = 5
_Z95 = 1.959964  # of the normal distribution: 95 % lie within so many standard deviations


class ClassScore(NamedTuple):
    """One class. photos: that bear its label; answers: that were given it. precision: None if it was never answered;
    recall, f1, flops_share, latency_ms: None, and blocks empty, if it has no photos. flops_share, latency_ms: means
    over its photos. exits: how many of its photos left at each exit, and last how many ran to the end. blocks: for each
    backbone block the share of its photos for which it ran."""

    name: str
    photos: int
    answers: int
    precision: Optional[float]
    recall: Optional[float]
    f1: Optional[float]
    flops_share: Optional[float]
    latency_ms: Optional[float]
    exits: Tuple[int, ...]
    blocks: Tuple[float, ...]


class ExitScore(NamedTuple):
    """Where photos left: the number of the exit, None for the end. accuracy, flops_share: of its photos, None if there
    are none."""

    exit: Optional[int]
    photos: int
    accuracy: Optional[float]
    flops_share: Optional[float]


class Scores(NamedTuple):
    """Shares are 0 to 1. interval: of top1, Wilson's, at 95 %. balanced_accuracy, macro_f1: means of recall and F1 over
    the classes that have photos. confidence: mean probability of the answers. calibration_error: see `gap_error`.
    confusion: int64 (classes, classes), labels by answers. latency_ms: percentiles of a batch's run, engine alone;
    mean_latency_ms: of a photo's share of it. images_per_second: all of it, decoding included; engine_per_second: of
    the engine alone. unknown: how many photos were said to be unknown, which are false alarms; unknown_correct: of
    these, how many answers were right; area_under_curve: see Foreign. None where the domain cannot tell, or nobody
    asked."""

    photos: int
    correct: int
    top1: float
    top5: float
    interval: Tuple[float, float]
    balanced_accuracy: float
    macro_f1: float
    confidence: float
    calibration_error: float
    bins: Tuple[Bin, ...]
    confusion: Array
    classes: Tuple[ClassScore, ...]
    exits: Tuple[ExitScore, ...]
    flops_share: float
    latency_ms: Dict[str, float]
    mean_latency_ms: float
    images_per_second: float
    engine_per_second: float
    unknown: Optional[int] = None
    unknown_correct: Optional[int] = None
    area_under_curve: Optional[float] = None


def score(evaluation: Evaluation) -> Scores:
    """What the answers are worth."""
    rows = evaluation.answered
    count = len(evaluation.domain.classes)
    ends = len(evaluation.domain.exits)
    labels = np.array([row.label for row in rows], np.int64)
    answers = np.array([row.answer for row in rows], np.int64)
    ranks = np.array([row.rank for row in rows], np.int64)
    sure = np.array([row.probability for row in rows])
    shares = np.array([row.flops_share for row in rows])
    seconds = np.array([row.engine_s for row in rows])
    left = np.array([ends if row.exit is None else row.exit for row in rows], np.int64)
    right = labels == answers
    confusion = np.bincount(labels * count + answers, minlength=count * count).reshape(count, count)
    bins = reliability(sure, right)
    classes = _classes(evaluation, confusion, labels, left, shares, seconds)
    correct = int(right.sum())
    unknown = [row for row in rows if row.known is False]
    told = all(row.familiarity is not None for row in rows)
    own, foreign = [row.familiarity or 0.0 for row in rows], evaluation.foreign
    return Scores(
        photos=len(rows),
        correct=correct,
        top1=float(right.mean()),
        top5=float((ranks <= TOP).mean()),
        interval=wilson_interval(correct, len(rows)),
        balanced_accuracy=_mean([one.recall for one in classes]),
        macro_f1=_mean([one.f1 for one in classes]),
        confidence=float(sure.mean()),
        calibration_error=gap_error(bins),
        bins=bins,
        confusion=confusion,
        classes=classes,
        exits=_exits(ends, left, right, shares),
        flops_share=float(shares.mean()),
        latency_ms=percentiles_ms(evaluation.batch_s),
        mean_latency_ms=float(1e3 * seconds.mean()),
        images_per_second=len(rows) / max(evaluation.seconds, 1e-9),
        engine_per_second=len(rows) / max(float(seconds.sum()), 1e-9),
        unknown=len(unknown) if told else None,
        unknown_correct=sum(row.correct for row in unknown) if told else None,
        area_under_curve=foreign.area_under_curve(own) if foreign is not None and told else None,
    )


def wilson_interval(found: int, of: int) -> Tuple[float, float]:
    """The 95 % confidence interval of a share, 0 to 1, of which `found` of `of` were seen (Wilson 1927, JASA 22):

    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Unlike p +- z sqrt(p (1 - p) / n) it is no point where all or none are found.
    """
    share, square = found / float(of), _Z95**2
    middle = share + square / (2 * of)
    half = _Z95 * math.sqrt(share * (1 - share) / of + square / (4.0 * of * of))
    whole = 1 + square / of
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def _classes(
    evaluation: Evaluation, confusion: Array, labels: Array, left: Array, shares: Array, seconds: Array
) -> Tuple[ClassScore, ...]:
    ends = len(evaluation.domain.exits) + 1
    scores: List[ClassScore] = []
    for index, name in enumerate(evaluation.domain.classes):
        mine = labels == index
        photos, answers, right = (int(n) for n in (mine.sum(), confusion[:, index].sum(), confusion[index, index]))
        scores.append(
            ClassScore(
                name=name,
                photos=photos,
                answers=answers,
                precision=right / float(answers) if answers else None,
                recall=right / float(photos) if photos else None,
                f1=2.0 * right / (photos + answers) if photos else None,
                flops_share=float(shares[mine].mean()) if photos else None,
                latency_ms=float(1e3 * seconds[mine].mean()) if photos else None,
                exits=tuple(np.bincount(left[mine], minlength=ends).tolist()),
                blocks=tuple((evaluation.blocks[index] / float(photos)).tolist()) if photos else (),
            )
        )
    return tuple(scores)


def _exits(ends: int, left: Array, right: Array, shares: Array) -> Tuple[ExitScore, ...]:
    scores = []
    for number in range(ends + 1):
        here = left == number
        photos = int(here.sum())
        means = [float(values[here].mean()) if photos else None for values in (right, shares)]
        scores.append(ExitScore(None if number == ends else number, photos, means[0], means[1]))
    return tuple(scores)


def _mean(values: List[Optional[float]]) -> float:
    """Of those that are known: a class without photos has neither recall nor F1."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else 0.0
