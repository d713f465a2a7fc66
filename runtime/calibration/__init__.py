"""Where pictures may leave: levels of confidence for a goal, from answers to labelled photos, and checks of the choice.

Arithmetic on arrays alone: what made the answers, PyTorch or an engine, does not matter.
"""

from .answers import Answers, Exits, Outcome, decide, outcome
from .checks import CrossFit, Permuted, best_static, cross_fit, halves, permuted
from .choice import NOBODY, Choice, Goal, Point, choose, curve, exits_at, expected_drops
from .confidence import (
    BINS,
    Bin,
    calibration_error,
    confidence,
    fit_temperature,
    fit_temperatures,
    gap_error,
    reliability,
    softmax,
)

__all__ = [
    "BINS",
    "NOBODY",
    "Answers",
    "Bin",
    "Choice",
    "CrossFit",
    "Exits",
    "Goal",
    "Outcome",
    "Permuted",
    "Point",
    "best_static",
    "calibration_error",
    "choose",
    "confidence",
    "cross_fit",
    "curve",
    "decide",
    "exits_at",
    "expected_drops",
    "fit_temperature",
    "fit_temperatures",
    "gap_error",
    "halves",
    "outcome",
    "permuted",
    "reliability",
    "softmax",
]
