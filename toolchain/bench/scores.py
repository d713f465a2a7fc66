"""Scores of training runs, and their mean and deviation over seeds, by domain and over domains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from da3.runtime.calibration import Goal, best_static, cross_fit
from da3.toolchain.bench.reports import Accuracies, AccuracyRow, AccuracySummary, Gated, OverallRow, Paired
from da3.toolchain.bench.trained import Trained
from da3.toolchain.errors import TrainingError


@dataclass(frozen=True)
class Key:
    """Names a run or a score; ``method`` is the name of the network that is trained, or a variant's label."""

    method: str
    domain: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} on {self.domain}, seed {self.seed}"


class Leaving(NamedTuple):
    """Photos leave at exits. left: share at each answer. static: accuracy of the best choice that does not look at the
    photo, at the same share of block FLOPs. permuted: that of the same decisions dealt to the photos at random."""

    left: tuple[float, ...]
    static: float
    permuted: float


class Point(NamedTuple):
    """An answer that every photo may be given: share of the block FLOPs, and accuracy."""

    cost: float
    accuracy: float


@dataclass(frozen=True)
class Score:
    """Of one variant, domain and seed: validation accuracy after the last epoch and after the best, and the share of
    block FLOPs that ran after the last. All are 0 to 1.

    ``leaving``: None where every photo runs to the end; ``best`` is None elsewhere, as it is tried with the last
    epoch's network alone. ``answers``: those of the network's exits and of its end.
    """

    last: float
    best: float | None
    flops_share: float
    leaving: Leaving | None = None
    answers: tuple[Point, ...] = ()

    @classmethod
    def of(cls, run: Trained, budget: float) -> Score:
        """With a ``budget`` below 1, of photos that leave so that this share of the block FLOPs runs on average.

        Raises TrainingError where there are too few photos for that.
        """
        if run.answers is None:
            return cls(run.last, run.best, run.flops_share)
        accuracies = run.answers.right().mean(axis=0)
        points = tuple(Point(float(c), float(a)) for c, a in zip(run.answers.costs, accuracies, strict=True))
        if budget >= 1:
            return cls(run.last, run.best, run.flops_share, answers=points)
        if len(run.answers.labels) < 2:
            raise TrainingError("one validation photo is too few: thresholds are chosen on one and checked on another")
        found = cross_fit(run.answers, Goal(most_cost=budget))
        leaving = Leaving(found.left, found.static, found.permuted)
        return cls(found.accuracy, None, found.cost, leaving, points)


def with_best_static(scores: Mapping[Key, Score]) -> dict[Key, Score]:
    """``scores`` whose ``static`` is the best that any network of that domain and seed gives.

    Blocks that are closed for all photos are a choice that does not look at the photo, too.
    """
    found = dict(scores)
    for key, score in scores.items():
        if score.leaving is not None:
            same = [other for k, other in scores.items() if (k.domain, k.seed) == (key.domain, key.seed)]
            costs, accuracies = np.array([point for other in same for point in other.answers]).T
            static = best_static(costs, accuracies, score.flops_share)
            found[key] = replace(score, leaving=score.leaving._replace(static=static))
    return found


def summarise(
    methods: Sequence[str], domains: Sequence[str], scores: Mapping[Key, Score], against: str | None = None
) -> AccuracySummary:
    """A row for each of ``methods`` and each domain with a score, and one for each method over all domains.

    A row lists its ``seeds`` and their values, with mean and sample standard deviation (None for a single one).
    Over all domains, a value is a seed's mean over them; seeds that lack a domain are left out.
    """
    seeds = sorted({key.seed for key in scores})
    rows: list[AccuracyRow] = []
    overall: list[OverallRow] = []
    for method in methods:
        for domain in domains:
            keys = {s: [key] for s in seeds if (key := Key(method, domain, s)) in scores}
            if keys:
                rows.append({"method": method, "domain": domain, **_accuracies(keys, scores, against)})
        every = {s: [Key(method, domain, s) for domain in domains] for s in seeds}
        complete = {s: keys for s, keys in every.items() if all(key in scores for key in keys)}
        if complete:
            found = _accuracies(complete, scores, against)
            overall.append({"method": method, "domains": list(domains), **found})
    return {"rows": rows, "overall": overall}


def _accuracies(keys: Mapping[int, Sequence[Key]], scores: Mapping[Key, Score], against: str | None) -> Accuracies:
    """Of the scores named by seed: one of each, or one for each domain."""
    by_seed = [[scores[key] for key in row] for row in keys.values()]
    last = _means([score.last for score in row] for row in by_seed)
    best = _means([score.best for score in row if score.best is not None] for row in by_seed)
    pairs = []
    for key in (key for row in keys.values() for key in row if key.method != against):
        baseline = scores.get(Key(against, key.domain, key.seed)) if against is not None else None
        if baseline is not None:
            pairs.append((scores[key].last, baseline.last))
    return {
        "seeds": list(keys),
        "last": last,
        "last_mean": statistics.fmean(last),
        "last_std": _deviation(last),
        "best": best or None,
        "best_mean": statistics.fmean(best) if best else None,
        "best_std": _deviation(best),
        "flops_share": statistics.fmean(score.flops_share for row in by_seed for score in row),
        "gated": _gated(by_seed),
        "against": _paired(pairs) if pairs else None,
    }


def _gated(by_seed: Sequence[Sequence[Score]]) -> Gated | None:
    found = [[(score.last, score.leaving) for score in row if score.leaving is not None] for row in by_seed]
    flat = [pair for row in found for pair in row]
    if not flat:
        return None
    static = _means([leaving.static for _, leaving in row] for row in found)
    permuted = _means([leaving.permuted for _, leaving in row] for row in found)
    return {
        "left": np.mean([leaving.left for _, leaving in flat], axis=0).tolist(),
        "static": static,
        "static_mean": statistics.fmean(static),
        "over_static": _paired([(last, leaving.static) for last, leaving in flat]),
        "permuted": permuted,
        "permuted_mean": statistics.fmean(permuted),
        "over_permuted": _paired([(last, leaving.permuted) for last, leaving in flat]),
    }


def _means(rows: Iterable[Sequence[float]]) -> list[float]:
    """Of each row that is not empty."""
    return [statistics.fmean(row) for row in rows if row]


def _paired(pairs: Sequence[tuple[float, float]]) -> Paired:
    """How far the first of each pair is above the second."""
    differences = [one - other for one, other in pairs]
    deviation = _deviation(differences)
    error = None if deviation is None else deviation / math.sqrt(len(pairs))
    return {"mean": statistics.fmean(differences), "error": error, "pairs": len(pairs)}


def _deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None
