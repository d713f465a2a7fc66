"""One domain as it is handed to a node: everything that decides what is done there, as JSON has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run of ``da3 train``, and what it needs.

    ``name``: of the job, one in its fleet. ``options``: those of ``TrainOptions`` by name, without ``runs``, ``resume``
    and ``overwrite``; of them ``data``, ``weights`` and ``start`` may be URIs. ``runs``: the folder, or the URI, below
    which the run's own folder is. ``pack``: the file, or the URI, that the finished domain is written to; None for no
    pack. ``overwrite``: an earlier run is removed first. ``cpus``: threads, and with ``gpus`` and ``memory`` (bytes; 0
    for no demand) what the node has to have free. ``cache``: the folder on each node for what is brought there.
    """

    name: str
    options: dict[str, Any]
    runs: str
    cache: str
    pack: str | None = None
    overwrite: bool = False
    engine: str = "pytorch"
    cpus: int = 1
    gpus: float = 0.0
    memory: int = 0

    @property
    def domain(self) -> str:
        return str(self.options["domain"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
