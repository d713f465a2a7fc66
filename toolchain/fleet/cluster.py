"""A cluster at work on some jobs, as told by the process that drives it (see driver_process.py)."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from da3.toolchain.errors import FleetError
from da3.toolchain.fleet.board import FAILED, FINISHED, RUNNING, STOPPED, WAITING
from da3.toolchain.fleet.job import Job
from da3.toolchain.fleet.places import is_uri
from da3.toolchain.process.worker import Answer, Worker, WorkerError

DRIVER = "da3.toolchain.fleet.driver_process"
_ADDRESS = re.compile(r"auto|[^\s/:]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5}")
_CONNECTS_WITHIN, _STARTS_WITHIN = 20.0, 120.0  # seconds: to a cluster; of one on this machine
_POLL = 0.1

# Read by Ray as it starts. None of it is set where the user has set it.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns otherwise; what asks for no GPU is trained on the CPU
    "PYTHONWARNINGS": "ignore",
}
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # makes Ray listen on 127.0.0.1, on any system


class Connected(NamedTuple):
    """The cluster answers. ``nodes``: by name, what each has, by the names that Ray gives resources."""

    nodes: dict[str, dict[str, float]]


class State(NamedTuple):
    """How a job goes: ``state`` is waiting or running; the rest as far as it is known. ``done``: share of its epochs.
    ``lost``: the node that it ran on is gone, and it waits for another."""

    name: str
    state: str
    node: str | None = None
    attempt: int = 1
    doing: str | None = None
    done: float | None = None
    accuracy: float | None = None
    trouble: str | None = None
    lost: bool = False


class Outcome(NamedTuple):
    """How a job ended: ``state`` is finished, stopped (it can be gone on with) or failed (``why`` says why)."""

    name: str
    state: str
    why: str | None = None
    accuracy: float | None = None


class Fleet:
    """Jobs on a cluster. ``address``: "auto", HOST:PORT, or None for one that is started on this machine.

    ``shared``: folders that all nodes must see as this machine does. ``stop()`` says when to end early.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        address: str | None,
        shared: Sequence[str] = (),
        stop: Callable[[], bool] = lambda: False,
    ):
        check_address(address)
        self.jobs, self.address, self.shared, self.stop = jobs, address, list(shared), stop
        self._asked = False  # whether it was asked to stop

    def events(self) -> Iterator[Connected | State | Outcome]:
        """Everything there is to tell, as it comes; at the end each job has had an Outcome.

        Raises FleetError, in one line, where no cluster answers, or it cannot do the jobs.
        """
        left = {job.name for job in self.jobs}
        self._asked = False
        try:
            for event in self._told():
                if isinstance(event, Outcome):
                    left.discard(event.name)
                yield event
        except FleetError:
            if not self._asked:
                raise
        # Asked to stop before it had begun, the driver ends without a word.
        yield from (Outcome(job.name, STOPPED) for job in self.jobs if job.name in left)

    def _told(self) -> Iterator[Connected | State | Outcome]:
        """What the driver tells, until it ends."""
        settings = {**_QUIET, **(_ALONE if self.address is None else {})}
        settings = {name: value for name, value in settings.items() if name not in os.environ}
        request = {
            "address": self.address,
            "jobs": [job.to_json() for job in self.jobs],
            "paths": _paths(self.jobs),
            "shared": self.shared,
        }
        within = _STARTS_WITHIN if self.address is None else _CONNECTS_WITHIN
        until, connected = time.monotonic() + within, False
        with Worker(DRIVER, request, settings=settings) as worker:
            for answer in _polled(worker):
                if self.stop() and not self._asked:
                    self._asked = True
                    if not connected:
                        return
                    worker.ask_to_stop()
                if answer is None:
                    if not connected and time.monotonic() > until:
                        raise FleetError(self._silent(within))
                    continue
                if "error" in answer:
                    raise FleetError(str(answer["error"]))
                if "connected" in answer:
                    connected = True
                    yield Connected(answer["connected"])
                yield from (_state(name, facts) for name, facts in answer.get("states", {}).items())
                if "result" in answer:
                    found = answer["result"]
                    yield Outcome(found["name"], found["state"], found.get("why"), found.get("accuracy"))

    def _silent(self, within: float) -> str:
        if self.address is None:
            return f"Ray did not start on this machine within {within:.0f} s: try `ray start --head` to see why"
        return (
            f"--address {self.address}: no Ray cluster answers there within {within:.0f} s: name HOST:PORT as `ray "
            f"start --head` printed it; the ports of its dashboard and of its client are others"
        )


def check_address(address: str | None) -> None:
    """Raise FleetError for what is no address of a cluster."""
    if address is not None and _ADDRESS.fullmatch(address) is None:
        raise FleetError(f"--address {address}: use auto, or HOST:PORT as `ray start --head` printed it")


def _polled(worker: Worker) -> Iterator[Answer | None]:
    """The answers of a process as they come, and None now and then between them. Raises FleetError where it fails."""
    answers: queue.Queue[Answer | Exception | None] = queue.Queue()

    def read() -> None:
        try:
            for answer in worker.answers():
                answers.put(answer)
            answers.put(None)
        except (WorkerError, ValueError, OSError) as error:
            answers.put(error)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            found = answers.get(timeout=_POLL)
        except queue.Empty:
            yield None
            continue
        if found is None:
            return
        if isinstance(found, Exception):
            raise FleetError(f"the fleet's driver ended: {found}; the same command goes on") from found
        yield found


def _state(name: str, facts: dict[str, Any]) -> State:
    return State(name, **{key: value for key, value in facts.items() if key in State._fields and key != "name"})


def _paths(jobs: Sequence[Job]) -> list[str]:
    """The files and folders that every node must have."""
    found: dict[str, None] = {}
    for job in jobs:
        for name in ("data", "weights", "start"):
            place = job.options.get(name)
            if isinstance(place, str) and not is_uri(place) and place not in ("imagenet", "demo"):
                found[place] = None
    return list(found)


__all__ = ["FAILED", "FINISHED", "RUNNING", "STOPPED", "WAITING", "Connected", "Fleet", "Outcome", "State"]
