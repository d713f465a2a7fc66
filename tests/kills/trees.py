"""What lies in a folder, to be compared."""

import hashlib
import json
from pathlib import Path

from da3.runtime.training.checkpoint import read

_TIMES = ("seconds", "images_per_second", "memory_mb")


def tree(folder, without=()):
    """{relative path: sha256} of every file and {path: "folder"} of every folder below, names in `without` left out."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder)
        if not set(name.parts) & set(without):
            found[str(name)] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(one, other):
    """Of two trees, in a line: which paths differ."""
    return ", ".join(sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key)))


def learnt(path):
    """What a checkpoint holds that a run decides: all of it but times, memory and where it was."""
    found = read(path)
    tensors = {name: (str(a.dtype), a.shape, a.tobytes()) for name, a in found.model.items()}
    tensors.update({"optimizer." + name: (str(a.dtype), a.shape, a.tobytes()) for name, a in found.optimizer.items()})
    rows = [{k: v for k, v in row.items() if k not in _TIMES} for row in found.progress.history]
    progress = (found.progress.epoch, found.progress.step, json.dumps(found.progress.calibration, sort_keys=True))
    return tensors, rows, progress
