"""Scores of training runs, and their mean and deviation over seeds, by domain and over domains."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from da3.runtime.training import Progress
from da3.toolchain.bench.reports import Accuracies, AccuracyRow, AccuracySummary, OverallRow


@dataclass(frozen=True)
class Key:
    """Names a run; ``method`` is a variant's label."""

    method: str
    domain: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} on {self.domain}, seed {self.seed}"


@dataclass(frozen=True)
class Score:
    """Of one run: validation accuracy after the last epoch and after the best, and the share of block FLOPs that ran
    after the last. All are 0 to 1."""

    last: float
    best: float
    flops_share: float

    @classmethod
    def of(cls, progress: Progress) -> Score:
        """The score of a finished run."""
        row = progress.history[-1]
        best = progress.best or row
        return cls(row["val_accuracy"], best["val_accuracy"], row["val_share"])


def summarise(methods: Sequence[str], domains: Sequence[str], scores: Mapping[Key, Score]) -> AccuracySummary:
    """A row for each method and domain with a score, and one for each method over all domains.

    A row lists its ``seeds`` and their values, with mean and sample standard deviation (None for a single one).
    Over all domains, a value is a seed's mean over them; seeds that lack a domain are left out.
    """
    seeds = sorted({key.seed for key in scores})
    rows: list[AccuracyRow] = []
    overall: list[OverallRow] = []
    for method in methods:
        for domain in domains:
            found = {s: scores[key] for s in seeds if (key := Key(method, domain, s)) in scores}
            if found:
                rows.append({"method": method, "domain": domain, **_accuracies(found)})
        complete = {}
        for seed in seeds:
            by_domain = [scores[key] for d in domains if (key := Key(method, d, seed)) in scores]
            if len(by_domain) == len(domains):
                complete[seed] = _mean(by_domain)
        if complete:
            overall.append({"method": method, "domains": list(domains), **_accuracies(complete)})
    return {"rows": rows, "overall": overall}


def _mean(scores: Sequence[Score]) -> Score:
    return Score(
        last=statistics.fmean(score.last for score in scores),
        best=statistics.fmean(score.best for score in scores),
        flops_share=statistics.fmean(score.flops_share for score in scores),
    )


def _accuracies(scores: Mapping[int, Score]) -> Accuracies:
    """Of scores by seed."""
    last = [score.last for score in scores.values()]
    best = [score.best for score in scores.values()]
    return {
        "seeds": list(scores),
        "last": last,
        "last_mean": statistics.fmean(last),
        "last_std": _deviation(last),
        "best": best,
        "best_mean": statistics.fmean(best),
        "best_std": _deviation(best),
        "flops_share": statistics.fmean(score.flops_share for score in scores.values()),
    }


def _deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None
