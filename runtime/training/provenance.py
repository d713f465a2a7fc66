"""Where a domain comes from: what a run writes down of its photos, its command and its machine before the first step.

It lies in the run's checkpoints and goes with the domain into bundles and packs. It is for people: nothing that is
computed depends on it, and files of before there was any are read as they are.
"""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ..errors import DataError
from ..system.machine import conditions
from ..system.versions import VERSION, distribution_version
from .config import RunConfig
from .photos import PhotoSet

# What computes, beside what `conditions` names, by engine.
_LIBRARIES = {"pytorch": ("torch",), "tensorrt": ("tensorrt",)}
_PIECE = 1 << 20  # bytes of a photo that are hashed at once


class Origin(NamedTuple):
    """What only the caller of a run knows. engine: what computes its gradients. command: as it was typed; None where it
    was not. options: those that are no part of a run's configuration, by the names that they have on the command line.
    start: what the run began from, see starting.py; None where from nothing. processes: how many began it together.
    """

    engine: str = ""
    command: Optional[str] = None
    options: Dict[str, Any] = {}
    start: Optional[Dict[str, Any]] = None
    processes: int = 1


def photos_sha256(photos: PhotoSet, workers: int) -> str:
    """The identity of labelled photos: sha256 over a line `SPLIT CLASS SHA256` for each, sorted, where the last is that
    of the file's bytes. Neither what the files are called nor where they lie has a part in it.

    Raises DataError for a photo that cannot be read.
    """

    def line(photo: Tuple[str, str, int]) -> str:
        split, path, label = photo
        return "%s %s %s\n" % (split, photos.classes[label], _file_sha256(path))

    every = [("train", path, label) for path, label in photos.train]
    every += [("val", path, label) for path, label in photos.val]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        lines = sorted(pool.map(line, every))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def provenance(config: RunConfig, photos: PhotoSet, workers: int, origin: Origin) -> Dict[str, Any]:
    """What to write down of a run that begins now, as JSON has it. Raises DataError."""
    versions = conditions()
    versions.update((name, distribution_version(name)) for name in _LIBRARIES.get(origin.engine, ()))
    machine, cpus = versions.pop("machine"), versions.pop("cpus")
    found: Dict[str, Any] = {
        "da3": VERSION,
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "engine": origin.engine,
        "command": origin.command,
        "photos": {
            "sha256": photos_sha256(photos, workers),
            "train": len(photos.train),
            "val": len(photos.val),
        },
        "from": origin.start,
        "machine": "%s, %d cores" % (machine, cpus),
        "versions": {name: version for name, version in versions.items() if version is not None},
    }
    if origin.processes > 1:
        found["processes"] = origin.processes
    return found


def of_domain(config: RunConfig, written: Dict[str, Any]) -> Dict[str, Any]:
    """What goes with the domain of a run: what was `written` down of it, and the settings that decided its result."""
    settings = config.to_json()
    for name in ("domain", "data", "classes", "weights_sha256", "adaptor", "memory"):  # told elsewhere, or private
        del settings[name]
    return dict(written, settings=settings)


def _file_sha256(path: str) -> str:
    found = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(_PIECE), b""):
                found.update(piece)
    except OSError as error:
        raise DataError("cannot read %s: %s" % (path, error.strerror or error))
    return found.hexdigest()
