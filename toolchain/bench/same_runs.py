"""Whether two runs came to the same: every number that was learnt or found, bit by bit.

When a run began, on which machine, how long its epochs took and what memory they held is no result, and not compared.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from da3.runtime.bundle import DESCRIPTION, familiar_numbers, familiar_tensors
from da3.runtime.records import Array
from da3.runtime.training import BEST, LAST, checkpoint

_BYTES = ("validation.npz", "samples.npy")
_CLOCK = ("seconds", "images_per_second", "memory_mb")  # of an epoch's row
_PROVENANCE = "provenance"


def different_runs(one: Path, other: Path) -> list[str]:
    """What differs between two runs' folders, in words; empty where nothing does. Raises CheckpointError, OSError."""
    found = []
    for name in (BEST, LAST):
        a, b = checkpoint.read(one / name), checkpoint.read(other / name)
        found += [f"{name}: the configuration"] * (a.config != b.config)
        found += [f"{name}: the progress"] * (_timeless(a.progress.to_json()) != _timeless(b.progress.to_json()))
        found += _tensors(f"{name}: ", a.model, b.model) + _tensors(f"{name}: optimiser, ", a.optimizer, b.optimizer)
        if (a.familiar is None) != (b.familiar is None):
            found.append(f"{name}: what is familiar")
        elif a.familiar is not None and b.familiar is not None:
            found += _tensors(f"{name}: familiar, ", familiar_tensors(a.familiar), familiar_tensors(b.familiar))
            found += [f"{name}: familiar"] * (familiar_numbers(a.familiar) != familiar_numbers(b.familiar))
    return found + [name for name in _BYTES if (one / name).read_bytes() != (other / name).read_bytes()]


def different_packs(one: Path, other: Path) -> list[str]:
    """What differs between two packs, in words; empty where nothing does."""
    contents: list[dict[str, Any]] = []
    for path in (one, other):
        with zipfile.ZipFile(path) as archive:
            files: dict[str, Any] = {name: archive.read(name) for name in archive.namelist()}
        files[DESCRIPTION] = {k: v for k, v in json.loads(files[DESCRIPTION]).items() if k != _PROVENANCE}
        contents.append(files)
    a, b = contents
    return [f"pack: {name}" for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def _timeless(progress: dict[str, Any]) -> dict[str, Any]:
    def row(of: Any) -> Any:
        return None if of is None else {name: value for name, value in of.items() if name not in _CLOCK}

    return {**progress, "best": row(progress["best"]), "history": [row(epoch) for epoch in progress["history"]]}


def _tensors(where: str, one: Mapping[str, Array], other: Mapping[str, Array]) -> list[str]:
    if one.keys() != other.keys():
        return [f"{where}the tensors' names"]
    return [
        f"{where}{name}"
        for name, array in one.items()
        if array.dtype != other[name].dtype or array.tobytes() != np.asarray(other[name]).tobytes()
    ]
