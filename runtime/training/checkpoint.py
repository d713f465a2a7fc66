"""Checkpoints: one safetensors file that says everything needed to go on from it, or to rebuild the model.

Tensors are named `model.*` and `optimizer.*`; the metadata's entry `da3` is a JSON object with `format`, `config` (see
`RunConfig`) and `progress` (see `Progress`). Format 1 called the configuration's memory settings `lean`, and formats 1
and 2 had a gate beside each block and no exits: what they learnt without using gates is read. The exits of format 3 did
not look at a cell's neighbours. An unfinished run of any of them cannot be resumed.
"""

import json
import os
from typing import Dict, NamedTuple, Union

import numpy as np

from ..bundle.safetensors import parse_safetensors, write_safetensors
from ..errors import BundleError, CheckpointError
from ..records import Array
from ..system.atomic import write_atomically
from .config import Progress, RunConfig

FORMAT = 4
_MODEL, _OPTIMIZER = "model.", "optimizer."


class Checkpoint(NamedTuple):
    """A checkpoint as read from the file at `path`.

    model: what the domain learns, by name. optimizer: the optimiser's state, by name; empty in a best checkpoint.
    """

    path: str
    format: int
    config: RunConfig
    progress: Progress
    model: Dict[str, Array]
    optimizer: Dict[str, Array]


def write(
    path: Union[str, "os.PathLike[str]"],
    config: RunConfig,
    progress: Progress,
    model: Dict[str, Array],
    optimizer: Dict[str, Array],
) -> None:
    """Write atomically, making the folder: a reader sees the old file or the new one, never half of one."""
    tensors = {_MODEL + name: array for name, array in model.items()}
    tensors.update((_OPTIMIZER + name, array) for name, array in optimizer.items())
    facts = {"format": FORMAT, "config": config.to_json(), "progress": progress.to_json()}
    write_atomically(path, write_safetensors(tensors, {"da3": json.dumps(facts)}))


def read(path: Union[str, "os.PathLike[str]"]) -> Checkpoint:
    """Read a checkpoint; its arrays are read-only. Raises CheckpointError if it is missing, damaged or from a newer
    da3."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise CheckpointError("no checkpoint at %s: train the domain first (da3 train --domain ...)" % path)
    try:
        with open(path, "rb") as file:
            tensors, metadata = parse_safetensors(file.read(), "the file")
        facts = json.loads(metadata["da3"])
        if facts["format"] > FORMAT:
            raise CheckpointError("%s was written by a newer da3: upgrade da3 to read it" % path)
        config, progress = RunConfig.from_json(facts["config"]), Progress.from_json(facts["progress"])
    except (BundleError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("%s is damaged or no da3 checkpoint (%s): delete it and train again" % (path, error))
    for array in tensors.values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError("%s holds NaN or infinity: train again with a lower --lr" % path)
    model, optimizer = _below(_MODEL, tensors), _below(_OPTIMIZER, tensors)
    return Checkpoint(path, facts["format"], config, progress, model, optimizer)


def _below(prefix: str, tensors: Dict[str, Array]) -> Dict[str, Array]:
    return {name[len(prefix) :]: array for name, array in tensors.items() if name.startswith(prefix)}
