"""Calibration of a finished bundle: gate thresholds for a budget today, precision later. Needs no training code."""

from da3.calib.threshold import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
