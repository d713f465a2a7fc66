"""What tells runs apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from da3.toolchain.runs.catalogue import FoundRun


def differences(runs: Sequence[FoundRun]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs: name -> the value that each run has, None where it has none.

    Lists are told by what is in them. Classes that differ are those that not all have.
    """
    settings = [run.settings() for run in runs]
    names = list(settings[0]) + sorted({name for s in settings[1:] for name in s} - set(settings[0]))
    found: dict[str, list[Any]] = {}
    for name in names:
        values: list[Any] = [s.get(name) for s in settings]
        if all(value == values[0] for value in values):
            continue
        if name == "classes":
            shared = set.intersection(*(set(value or ()) for value in values))
            alone = [[c for c in value or () if c not in shared] for value in values]
            values = alone if any(alone) else values  # the same classes in another order are told whole
        found[name] = values
    return found
