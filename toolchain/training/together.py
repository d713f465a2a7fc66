"""Whether several processes can make a run together."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from da3.runtime.training import PhotoSet, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method

if TYPE_CHECKING:
    from da3.toolchain.distributed import Joined


def check_together(joined: Joined, config: RunConfig, photos: PhotoSet, budget: int | None) -> None:
    """Raise TrainingError where what is to be learnt, the photos or their order differ between the processes, or where
    several processes cannot do what one can. The folder of photos may have another name on each machine."""
    if joined.size > 1:
        if not method(config.method).sliceable:
            raise TrainingError(
                f"--method {config.method}: its batch norms see a whole batch, which several processes divide: train "
                "it with one process"
            )
        if budget is not None:
            raise TrainingError(
                "--memory-budget: is measured by one process: run `da3 train` without torchrun to see what fits, and "
                "give that with --micro-batch, --keep-precision and --backbone-precision"
            )
    settings = {name: value for name, value in config.to_json().items() if name != "data"}
    found = [(os.path.relpath(path, config.data), label, _bytes(path)) for path, label in photos.train + photos.val]
    joined.check_equal(options=json.dumps(settings), photos=json.dumps(found))


def _bytes(path: str) -> int | None:
    """The file's size; None where it cannot be read, which is said later, and of which photo."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
