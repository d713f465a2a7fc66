"""Errors of training and export: each message says what is wrong, where, and how to fix it."""

from __future__ import annotations

from da3.runtime.errors import Da3Error


class WeightsError(Da3Error):
    """A weights file is missing, unreadable or made for another network."""


class DataError(Da3Error):
    """A folder of photos cannot be trained on."""


class CheckpointError(Da3Error):
    """A checkpoint is missing, unreadable or belongs to another run."""


class TrainingError(Da3Error):
    """Training cannot start or go on with these options."""
