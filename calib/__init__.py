"""Calibration of a finished bundle: exits for a goal, unknown pictures, ranges for INT8. It needs no training code."""

from da3.calib.errors import CalibrationError
from da3.calib.exits import Answer, ExitCalibration, Score, calibrate, reset
from da3.calib.int8 import Agreement, Int8Calibration, calibrate_int8
from da3.calib.unknown import UnknownCalibration, calibrate_unknown

__all__ = [
    "Agreement",
    "Answer",
    "CalibrationError",
    "ExitCalibration",
    "Int8Calibration",
    "Score",
    "UnknownCalibration",
    "calibrate",
    "calibrate_int8",
    "calibrate_unknown",
    "reset",
]
