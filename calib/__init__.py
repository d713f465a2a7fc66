"""Calibration of a finished bundle: gate thresholds for a budget, ranges for INT8. It needs no training code."""

from da3.calib.errors import CalibrationError
from da3.calib.int8 import Agreement, Int8Calibration, calibrate_int8
from da3.calib.threshold import Calibration, calibrate

__all__ = ["Agreement", "Calibration", "CalibrationError", "Int8Calibration", "calibrate", "calibrate_int8"]
