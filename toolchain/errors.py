"""Errors of training and export: each message says what is wrong, where, and how to fix it.

Those that the runtime raises as well, because it can train, are the runtime's own classes.
"""

from __future__ import annotations

from da3.runtime.errors import CheckpointError, ConfigurationError, Da3Error, DataError, TrainingError

__all__ = ["CheckpointError", "ConfigurationError", "DataError", "ReportError", "TrainingError", "WeightsError"]


class ReportError(Da3Error):
    """A report cannot be made of what was named, or where it was asked for."""


class WeightsError(Da3Error):
    """A weights file is missing, unreadable or made for another network."""
