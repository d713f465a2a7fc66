"""Percentiles of measured times."""

from typing import Dict, List, Sequence

PERCENTILES = (50, 90, 99)


def percentiles_ms(seconds: Sequence[float]) -> Dict[str, float]:
    """{"p50", "p90", "p99"} in milliseconds, interpolated linearly; 0 for an empty list.

    These are numpy.percentile's figures. That function loads numpy.ma at its first call, which costs a twentieth of the
    time that a command on one photo takes.
    """
    ordered = sorted(float(value) * 1e3 for value in seconds)
    return {"p%d" % p: _interpolated(ordered, p / 100.0) for p in PERCENTILES}


def _interpolated(ordered: List[float], share: float) -> float:
    if not ordered:
        return 0.0
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
