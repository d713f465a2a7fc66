"""Which of several learning rates is reported: the best over all domains and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from da3.toolchain.bench.reports import RateChoice
from da3.toolchain.bench.scores import Key, Score
from da3.toolchain.bench.variants import Variant


def choose_rates(variants: Sequence[Variant], scores: Mapping[Key, Score]) -> list[RateChoice]:
    """For each choice among ``variants``, what is best by the mean accuracy over runs that all its rates have.

    The runs' validation photos decide, which flatters what is reported, by as much as the best of a few means can.
    Until there is a run that all have, it is the first.
    """
    found: list[RateChoice] = []
    for choice in dict.fromkeys(variant.choice for variant in variants if variant.choice is not None):
        labels = [variant.label for variant in variants if variant.choice == choice]
        runs = [{(key.domain, key.seed) for key in scores if key.method == label} for label in labels]
        common = sorted(set.intersection(*runs))
        means = {label: statistics.fmean(scores[Key(label, *run)].last for run in common) for label in labels if common}
        best = max(labels, key=lambda label: means.get(label, 0.0))
        found.append({"asked": choice, "reported": best, "means": means, "runs": len(common)})
    return found


def reported(variants: Sequence[Variant], choices: Sequence[RateChoice]) -> list[str]:
    """Labels of the variants that have rows: without the learning rates that were not the best."""
    best = {choice["reported"] for choice in choices}
    return [variant.label for variant in variants if variant.choice is None or variant.label in best]
