"""What torchrun, or another launcher with its words, says to each process that it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from da3.runtime.system import usable_cpus
from da3.toolchain.errors import TrainingError

_MOST = 4096  # processes: what is more is no number of processes but a mistake
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_THREADS = "OMP_NUM_THREADS"


class Launch(NamedTuple):
    """``rank``: the number of this process, from 0, of ``size`` processes; ``local_rank`` and ``local_size``: the same
    among those of this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def cores(self) -> int:
        """This process's share of the cores that those of this machine may use: at least one."""
        return max(1, usable_cpus() // self.local_size)

    def threads(self, environment: Mapping[str, str] = os.environ) -> int | None:
        """How many threads to compute with; None where the user has said so. torchrun itself says one."""
        return self.cores if environment.get(_THREADS, "1") == "1" else None


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What a launcher says; None where none has started this process. Raises TrainingError for what makes no sense."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environment.keys():
        return None
    numbers = []
    for name in _NAMES:
        text = environment.get(name, "")
        if not (text.isascii() and text.isdigit() and int(text[:9]) <= _MOST):
            raise TrainingError(f"the environment's {name} is {text[:40]!r}, no number of processes: use torchrun")
        numbers.append(int(text[:9]))
    found = Launch(*numbers)
    if not (found.rank < found.size and found.local_rank < found.local_size <= found.size):
        raise TrainingError(
            f"the environment says process {found.rank} of {found.size}, and {found.local_rank} of {found.local_size} "
            "on this machine, which cannot be: start with torchrun"
        )
    return found
