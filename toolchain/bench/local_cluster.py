"""A cluster of several nodes on this machine, of which one can be switched off."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from da3.toolchain.errors import TrainingError
from da3.toolchain.process import Worker

_MODULE = "da3.toolchain.bench.cluster_process"
_ENDS_WITHIN = 20.0  # seconds
# What Ray reads as it starts, of the cluster and of what is to connect to it.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray stay on 127.0.0.1
}


class LocalCluster:
    """Nodes with ``cpus`` each, for use as a context manager; leaving it ends them. ``address`` is HOST:PORT."""

    def __init__(self, nodes: int = 2, cpus: int = 1):
        self._worker = Worker(_MODULE, {"nodes": nodes, "cpus": cpus}, settings=SETTINGS)
        answer = next(self._worker.answers(), None)  # raises where it does not start
        if answer is None:
            raise TrainingError("the cluster ended as it started")
        self.address: str = answer["address"]
        self.raylets: list[int] = answer["raylets"]

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._worker.process.wait(_ENDS_WITHIN)
        self._worker.__exit__()

    def switch_off(self, node: int) -> None:
        """End every process of a node at once, without a word, as when its machine loses power. 0 is the head."""
        doomed = [self.raylets[node], *descendants(self.raylets[node])]
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that these did (Linux)."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
