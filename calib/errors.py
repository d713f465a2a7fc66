"""Errors of calibration."""

from __future__ import annotations

from da3.runtime.errors import Da3Error


class CalibrationError(Da3Error):
    """A domain cannot be calibrated as asked."""
