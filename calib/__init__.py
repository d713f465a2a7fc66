"""Calibration of a finished bundle: exits for a goal, ranges for INT8. It needs no training code."""

from da3.calib.errors import CalibrationError
from da3.calib.exits import Answer, ExitCalibration, Score, calibrate, reset
from da3.calib.int8 import Agreement, Int8Calibration, calibrate_int8

__all__ = [
    "Agreement",
    "Answer",
    "CalibrationError",
    "ExitCalibration",
    "Int8Calibration",
    "Score",
    "calibrate",
    "calibrate_int8",
    "reset",
]
