"""A goal in the user's terms, as calibration takes it, and what is said where it cannot be had."""

from __future__ import annotations

from typing import NamedTuple

from da3.calib.errors import CalibrationError
from da3.runtime.calibration import Choice, Goal


class Wanted(NamedTuple):
    """words: for people. asked: {option: value}, for the domain's description. timed: its costs are milliseconds, in
    the place of shares of the block FLOPs."""

    words: str
    asked: dict[str, float]
    goal: Goal
    timed: bool = False


def wanted(max_drop: float | None, target_skip: float | None, latency_ms: float | None) -> Wanted:
    """Raises CalibrationError unless it is one goal that makes sense."""
    if sum(goal is not None for goal in (max_drop, target_skip, latency_ms)) != 1:
        raise CalibrationError("choose one goal: --max-drop 0.5, --target-skip 0.3 or --latency-ms 12")
    if max_drop is not None:
        if not 0.0 <= max_drop <= 100.0:
            raise CalibrationError(f"--max-drop {max_drop:g}: use points of accuracy from 0 to 100, such as 0.5")
        return Wanted(f"at most {max_drop:g} points lost", {"max_drop": max_drop}, Goal(max_drop=max_drop / 100))
    if target_skip is not None:
        if not 0.0 <= target_skip < 1.0:
            raise CalibrationError(f"--target-skip {target_skip:g}: use a share from 0 up to, not including, 1")
        words = f"{100 * target_skip:g} % of the block FLOPs saved"
        return Wanted(words, {"target_skip": target_skip}, Goal(most_cost=1 - target_skip))
    assert latency_ms is not None
    if not 0.0 < latency_ms < float("inf"):
        raise CalibrationError(f"--latency-ms {latency_ms:g}: use milliseconds above 0, such as 12")
    return Wanted(f"{latency_ms:g} ms a picture", {"latency_ms": latency_ms}, Goal(most_cost=latency_ms), timed=True)


def out_of_reach(domain: str, asked: Wanted, nearest: Choice, last_accuracy: float) -> CalibrationError:
    """What can be had in the place of a mean cost that even leaving at the first exit exceeds."""
    least = nearest.outcome.cost
    option, value = next(iter(asked.asked.items()))
    if asked.timed:
        can = f"a picture of {domain} takes {least:.2f} ms to its first exit on this device"
    else:
        can = f"{domain} can save {1 - least:.3f} of its block FLOPs at most"
    accuracies = f"{nearest.outcome.accuracy:.1%} are right if all leave there, {last_accuracy:.1%} if nobody does"
    return CalibrationError(f"--{option.replace('_', '-')} {value:g}: {can} ({accuracies}); nothing was changed")
