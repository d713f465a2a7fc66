"""What a run's progress says about the domain that is deployed from it."""

from typing import Any, Dict, NamedTuple, Optional, Tuple

from ..records import ExitRule
from .config import Row


class Decisions(NamedTuple):
    """Who leaves where, as a domain's record has it."""

    exits: Tuple[ExitRule, ...]
    temperature: float
    calibration: Dict[str, Any]


def decisions(calibration: Optional[Dict[str, Any]], exits: int) -> Decisions:
    """calibration: as a run's progress has it; None where nobody leaves. exits: how many there are."""
    if calibration is None:
        return Decisions((ExitRule(None),) * exits, 1.0, {})
    rules = tuple(ExitRule(**rule) for rule in calibration["exits"])
    return Decisions(rules, calibration.get("temperature", 1.0), calibration.get("calibration", {}))


def metrics(best: Optional[Row]) -> Dict[str, float]:
    """The figures of the best epoch as deployed: where photos leave at exits, of those that had no part in choosing
    where."""
    if best is None:
        return {}
    return {
        "val_accuracy": best.get("kept_accuracy", best["val_accuracy"]),
        "flops_share": best.get("kept_share", best["val_share"]),
    }
