"""The memory that some work takes, measured in a process which does nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from da3.toolchain.process.worker import Worker, WorkerError


def measured_peak(module: str, request: Mapping[str, object]) -> int:
    """What the worker ``module`` answers as ``peak``: the most bytes that it held. Raises WorkerError if it fails."""
    with Worker(module, request) as worker:
        for answer in worker.answers():
            if "peak" in answer:
                return int(answer["peak"])
    raise WorkerError("the memory of training could not be measured: its process ended without a result")
