"""Scores of single runs, summed up by domain and over domains."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from da3.runtime.training.config import Progress


@dataclass(frozen=True)
class Key:
    """Which run: ``method`` is a variant's label."""

    method: str
    domain: str
    seed: int

    def __str__(self) -> str:
        return f"{self.method} on {self.domain}, seed {self.seed}"


@dataclass(frozen=True)
class Score:
    """Validation accuracy (0 to 1) after the last epoch and after the best, and the last's share of block FLOPs."""

    last: float
    best: float
    flops_share: float

    @classmethod
    def of(cls, progress: Progress) -> Score:
        """That of a finished run."""
        row = progress.history[-1]
        best = progress.best or row
        return cls(row["val_accuracy"], best["val_accuracy"], row["val_share"])


def summarise(methods: Sequence[str], domains: Sequence[str], scores: Mapping[Key, Score]) -> dict[str, Any]:
    """{"rows": one for each method and domain with a score, "overall": one for each method}.

    A row lists its ``seeds`` and their values, with mean and sample standard deviation (None for a single one).
    Overall, a value is a seed's mean over all domains; seeds that lack a domain are left out.
    """
    seeds = sorted({key.seed for key in scores})
    rows, overall = [], []
    for method in methods:
        for domain in domains:
            found = {s: scores[key] for s in seeds if (key := Key(method, domain, s)) in scores}
            if found:
                rows.append({"method": method, "domain": domain, **_statistics(found)})
        whole = {}
        for seed in seeds:
            parts = [scores[key] for d in domains if (key := Key(method, d, seed)) in scores]
            if len(parts) == len(domains):
                whole[seed] = Score(*(statistics.fmean(getattr(p, n) for p in parts) for n in Score.__annotations__))
        if whole:
            overall.append({"method": method, "domains": list(domains), **_statistics(whole)})
    return {"rows": rows, "overall": overall}


def _statistics(scores: Mapping[int, Score]) -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": list(scores)}
    for name in ("last", "best"):
        values = [getattr(score, name) for score in scores.values()]
        found[name] = values
        found[f"{name}_mean"] = statistics.fmean(values)
        found[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    found["flops_share"] = statistics.fmean(score.flops_share for score in scores.values())
    return found
