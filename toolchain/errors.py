"""Errors of training and export: each message says what is wrong, where, and how to fix it.

Those that the runtime raises as well, because it can train, are the runtime's own classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from da3.runtime.errors import CheckpointError, ConfigurationError, Da3Error, DataError, TrainingError

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "DataError",
    "FleetError",
    "ReportError",
    "TrainingError",
    "WeightsError",
    "hint",
]


def hint(name: str, known: Iterable[str]) -> str:
    """The way out for who wrote a name that is none: the nearest of those that are, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"


class ReportError(Da3Error):
    """A report cannot be made of what was named, or where it was asked for."""


class WeightsError(Da3Error):
    """A weights file is missing, unreadable or made for another network."""


class FleetError(Da3Error):
    """A fleet's file cannot be read, or its cluster or its storage cannot be used."""
