"""Checkpoints: one safetensors file that says everything needed to go on from it, or to rebuild the model.

Tensors are named `model.*` and `optimizer.*`; the metadata's entry `da3` is a JSON object with `format`, `config` (see
`RunConfig`) and `progress` (see `Progress`), and `provenance` (see provenance.py), which older ones lack; the best one
of a finished run has `familiar.*` and `familiar` too, what its photos look like (see looking.py). The entry `sha256` is
that of all the rest, see `_digest`; older ones lack it, and are read without. Format 1
called the configuration's memory settings `lean`, and formats 1 and 2 had a gate beside each block and no exits: what
they learnt without using gates is read. The exits of format 3 did not look at a cell's neighbours. An unfinished run of
any of them cannot be resumed.
"""

import hashlib
import json
import os
import struct
from typing import Any, Dict, NamedTuple, Optional, Union

import numpy as np

from ..bundle.familiar import familiar_numbers, familiar_of, familiar_tensors
from ..bundle.jsonfile import Object, read_json
from ..bundle.safetensors import parse_safetensors, write_safetensors
from ..errors import BundleError, CheckpointError
from ..records import Array, Familiar
from ..system.atomic import write_atomically
from ..system.regular import open_regular, read_regular
from .config import Progress, RunConfig

FORMAT = 4
_LIMIT, _HEAD_LIMIT = 1 << 30, 16 << 20  # bytes of a checkpoint, and of what it says before its tensors
_FACTS, _SHA256 = "da3", "sha256"  # in the metadata
_MODEL, _OPTIMIZER, _FAMILIAR = "model.", "optimizer.", "familiar."


class Checkpoint(NamedTuple):
    """A checkpoint as read from the file at `path`.

    model: what the domain learns, by name. optimizer: the optimiser's state, by name; empty in a best checkpoint.
    provenance: see provenance.py; empty in those of before there was any. familiar: what the photos look like; None
    where nobody has looked.
    """

    path: str
    format: int
    config: RunConfig
    progress: Progress
    model: Dict[str, Array]
    optimizer: Dict[str, Array]
    provenance: Dict[str, Any] = {}
    familiar: Optional[Familiar] = None


class Facts(NamedTuple):
    """What a checkpoint says beside its tensors."""

    format: int
    config: RunConfig
    progress: Progress
    provenance: Dict[str, Any]


def write(
    path: Union[str, "os.PathLike[str]"],
    config: RunConfig,
    progress: Progress,
    model: Dict[str, Array],
    optimizer: Dict[str, Array],
    provenance: Optional[Dict[str, Any]] = None,
    familiar: Optional[Familiar] = None,
) -> None:
    """Write atomically, making the folder: a reader sees the old file or the new one, never half of one.

    Raises CheckpointError, and leaves the old file, where a number is not finite: what is written can be gone on from.
    """
    tensors = {_MODEL + name: array for name, array in model.items()}
    tensors.update((_OPTIMIZER + name, array) for name, array in optimizer.items())
    facts: Dict[str, Any] = {
        "format": FORMAT,
        "config": config.to_json(),
        "progress": progress.to_json(),
        "provenance": {} if provenance is None else provenance,
    }
    if familiar is not None:
        tensors.update((_FAMILIAR + name, array) for name, array in familiar_tensors(familiar).items())
        facts["familiar"] = familiar_numbers(familiar)
    broken = _not_finite(tensors)
    if broken:
        raise CheckpointError("%s is not written, since %s: %s" % (os.fspath(path), broken, _ADVICE))
    text = json.dumps(facts)
    write_atomically(path, write_safetensors(tensors, {_FACTS: text, _SHA256: _digest(text, tensors)}))


def read(path: Union[str, "os.PathLike[str]"]) -> Checkpoint:
    """Read a checkpoint; its arrays are read-only. Raises CheckpointError if it is missing, damaged or from a newer
    da3."""
    return parse(stored(path), os.fspath(path))


def parse(data: bytes, path: str) -> Checkpoint:
    """The checkpoint that `data` is the file of, at `path` wherever it was written. Raises as `read` does."""
    try:
        tensors, metadata = parse_safetensors(data, "the file")
        facts = _facts(metadata, path)
        if metadata.get(_SHA256, "") not in ("", _digest(metadata[_FACTS], tensors)):
            raise ValueError("it has another sha256 than it was written with")
        familiar = _familiar(metadata, tensors, path)
    except _DAMAGE as error:
        raise _damaged(path, error)
    broken = _not_finite(tensors)
    if broken:
        raise CheckpointError("%s cannot be used, since %s: %s" % (path, broken, _ADVICE))
    model, optimizer = _below(_MODEL, tensors), _below(_OPTIMIZER, tensors)
    return Checkpoint(path, facts.format, facts.config, facts.progress, model, optimizer, facts.provenance, familiar)


def stored(path: Union[str, "os.PathLike[str]"]) -> bytes:
    """The file as it is, which `parse` reads; never empty. Raises CheckpointError if it is missing or unreadable."""
    path = _present(path)
    try:
        data = read_regular(path, _LIMIT)
        if not data:
            raise ValueError("truncated")
        return data
    except _DAMAGE as error:
        raise _damaged(path, error)


def read_facts(path: Union[str, "os.PathLike[str]"]) -> Facts:
    """What a checkpoint says, without its tensors: of a file of any size a few KB are read. Raises as `read` does."""
    path = _present(path)
    try:
        with open_regular(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(os.path.getsize(path), _HEAD_LIMIT):
                raise ValueError("truncated")
            return _facts(read_json(file.read(length), _HEAD_LIMIT)["__metadata__"], path)
    except (struct.error,) + _DAMAGE as error:
        raise _damaged(path, error)


_DAMAGE = (BundleError, OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError)  # of damaged files


def _present(path: Union[str, "os.PathLike[str]"]) -> str:
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise CheckpointError("no checkpoint at %s: train the domain first (da3 train --domain ...)" % path)
    return path


_ADVICE = "train again with a lower --lr"


def _not_finite(tensors: Dict[str, Array]) -> str:
    """Which tensors hold NaN or infinity, in words; empty where none does."""
    names = [name for name, a in sorted(tensors.items()) if a.dtype.kind == "f" and not np.isfinite(a).all()]
    if not names:
        return ""
    more = " and %d more hold" % (len(names) - 1) if len(names) > 1 else " holds"
    return "%s%s NaN or infinity" % (names[0], more)


def _digest(facts: str, tensors: Dict[str, Array]) -> str:
    """The sha256 of the facts as they are written, and of each tensor's name, type, shape and bytes, by name."""
    found = hashlib.sha256(facts.encode("utf-8"))
    for name, array in sorted(tensors.items()):
        array = np.ascontiguousarray(array).reshape(array.shape)  # numpy makes (1,) of a scalar
        found.update(("\0%s\0%s\0%s\0" % (name, array.dtype.newbyteorder("<").str, list(array.shape))).encode("utf-8"))
        found.update(array.astype(array.dtype.newbyteorder("<"), copy=False).data if array.size else b"")
    return found.hexdigest()


def _facts(metadata: Dict[str, str], path: str) -> Facts:
    facts = read_json(metadata[_FACTS], _HEAD_LIMIT, finite=False)  # losses and gradients are written as they were
    if facts["format"] > FORMAT:
        raise CheckpointError("%s was written by a newer da3: upgrade da3 to read it" % path)
    config, progress = RunConfig.from_json(facts["config"]), Progress.from_json(facts["progress"])
    return Facts(facts["format"], config, progress, dict(facts.get("provenance", {})))


def _familiar(metadata: Dict[str, str], tensors: Dict[str, Array], path: str) -> Optional[Familiar]:
    numbers = read_json(metadata[_FACTS], _HEAD_LIMIT, finite=False).get("familiar")
    return None if numbers is None else familiar_of(Object(numbers, path), _below(_FAMILIAR, tensors))


def _damaged(path: str, error: Exception) -> CheckpointError:
    return CheckpointError("%s is damaged or no da3 checkpoint (%s): delete it and train again" % (path, error))


def _below(prefix: str, tensors: Dict[str, Array]) -> Dict[str, Array]:
    return {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}
