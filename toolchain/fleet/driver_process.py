"""The driver of a fleet: ``python -m da3.toolchain.fleet.driver_process``, which ``Fleet`` starts by Worker.

It is a process of its own since Ray prints what it likes, takes minutes for what does not answer, and stays in memory.
The request has ``address`` (None: a cluster is started, on this machine alone), ``jobs`` (each a Job), and what
``check_nodes`` looks for: ``paths`` and ``shared``. It says ``connected``, then again and again ``states``, and for
each job ``result``; or ``error``, and ends. SIGTERM makes all save and end.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from da3.runtime.errors import Da3Error
from da3.runtime.system import VERSION, stop_on_interrupt, usable_cpus, write_atomically
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet.board import FAILED, RUNNING, STOPPED, WAITING, Board
from da3.toolchain.fleet.mirror import remove_run
from da3.toolchain.fleet.nodes import Node, check_demands, check_nodes, demand, living
from da3.toolchain.fleet.task import LostProcessError, train_job
from da3.toolchain.process.worker import Answer, Say, serve

RETRIES = 10  # of a job whose worker or node was lost
_POLL = 0.3  # seconds between looks
_LOOK_AT_NODES = 2.0
_KNOCK = 5.0  # seconds for a port to open
_STORE = 80 << 20  # bytes for Ray's objects, of which there are hardly any; the least that it takes


def _work(request: Answer, say: Say) -> None:
    try:
        with _ray(request["address"]) as ray:
            _drive(ray, request, say)
    except Da3Error as error:
        say({"error": str(error)})


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one that is started here and ends with the block."""
    try:
        import ray
    except ImportError as error:
        raise FleetError("fleets need Ray: pip install 'da3[ray]'") from error
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    try:
        if address is None:
            own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE}
            ray.init(address="local", num_cpus=usable_cpus(), **own, **quiet)
        else:
            if address != "auto":
                _knock(address)
            ray.init(address=address, **quiet)
    except (Exception, SystemExit) as error:
        if isinstance(error, Da3Error):
            raise
        where = "no cluster could be started here" if address is None else f"no cluster to use at {address}"
        raise FleetError(f"{where}: {_in_a_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise FleetError where nobody listens, at once: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise FleetError(
            f"--address {address}: nobody answers there ({reason}): name HOST:PORT as `ray start --head` printed it, "
            f"or auto on a machine of the cluster"
        ) from error


def _drive(ray: Any, request: Answer, say: Say) -> None:
    jobs = request["jobs"]
    nodes = living(ray.nodes())
    say({"connected": {node.name: node.resources for node in nodes}})
    check_demands(jobs, nodes)
    board = _board(ray)  # it starts while the nodes look
    with _marked(request["shared"]) as mark:
        check_nodes(ray, nodes, version=VERSION, paths=request["paths"], shared=request["shared"], mark=mark)
    for job in jobs:
        if job["overwrite"]:
            remove_run(job["runs"], job["options"]["domain"])
    with stop_on_interrupt(lambda words: None) as stop:
        _Driver(ray, board, jobs, say).run(stop)


def _board(ray: Any) -> Any:
    """The actor, on this machine: it is not lost with another."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


@contextmanager
def _marked(shared: list[str]) -> Iterator[str]:
    """A file of this name is in each folder, by which others know that it is the same folder."""
    name = f".da3-fleet-{os.urandom(6).hex()}"
    try:
        for folder in shared:
            write_atomically(os.path.join(folder, name), b"")
        yield name
    except OSError as error:
        raise FleetError(f"cannot write in {error.filename}: {error.strerror}") from error
    finally:
        for folder in shared:
            Path(folder, name).unlink(missing_ok=True)


class _Driver:
    """The jobs of a fleet, from being handed to Ray until each has a result."""

    def __init__(self, ray: Any, board: Any, jobs: list[dict[str, Any]], say: Say):
        self.ray, self.board, self.say = ray, board, say
        task = ray.remote(train_job)
        self.names: dict[Any, str] = {}
        for job in jobs:
            wanted = demand(job)
            made = task.options(
                name=job["name"],
                num_cpus=wanted["CPU"],
                num_gpus=wanted.get("GPU", 0),
                memory=wanted.get("memory"),
                max_retries=RETRIES,
                retry_exceptions=[LostProcessError],
            )
            self.names[made.remote(job, VERSION, self.board)] = job["name"]
        self.on: dict[str, str] = {}  # by job, the id of the node that it began on
        self.nodes: dict[str, Node] = {}
        self.looked = -_LOOK_AT_NODES

    def run(self, stop: Callable[[], bool]) -> None:
        """Say how the jobs go until all have a result."""
        asked = False
        while self.names:
            done, _ = self.ray.wait(list(self.names), num_returns=len(self.names), timeout=_POLL)
            if stop() and not asked:
                asked = True
                self._stop()
            self._say_states()
            for ref in done:
                name = self.names.pop(ref)
                self.on.pop(name, None)
                self.say({"result": {"name": name, **self._result(ref)}})

    def _say_states(self) -> None:
        now = time.monotonic()
        lost = {}
        if now - self.looked > _LOOK_AT_NODES:
            self.looked = now
            alive = {node.id: node for node in living(self.ray.nodes())}
            lost = {name: {"state": WAITING, "lost": True} for name, node in self.on.items() if node not in alive}
            self.on = {name: node for name, node in self.on.items() if node in alive}
            # A node keeps the name that it had first, also where another of its host comes or goes.
            self.nodes = {**alive, **self.nodes}
        found = self.ray.get(self.board.changes.remote())
        states = {}
        for name, state in found.items():
            self.on[name] = state["node"]
            node = self.nodes.get(state["node"])
            states[name] = {**state, "state": RUNNING, "node": node.name if node else state["node"][:8]}
        self.say({"states": {**lost, **states}})

    def _result(self, ref: Any) -> dict[str, Any]:
        from ray.exceptions import RayTaskError, TaskCancelledError

        try:
            return dict(self.ray.get(ref))
        except TaskCancelledError:
            return {"state": STOPPED}
        except RayTaskError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, LostProcessError):
                return {"state": FAILED, "why": f"{cause}, and so it was {RETRIES} times more"}
            return {"state": FAILED, "why": f"{type(cause).__name__}: {_in_a_line(cause)}"}
        except Exception as error:  # a worker or a node that was lost too often
            return {"state": FAILED, "why": f"lost more than {RETRIES} times: {_in_a_line(error)}"}

    def _stop(self) -> None:
        """Ask all to save and end; what runs nowhere is taken back."""
        begun = set(self.ray.get(self.board.stop.remote()))
        for ref, name in self.names.items():
            if name not in begun or name not in self.on:
                self.ray.cancel(ref)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    serve(_work, orphaned=signal.SIGTERM)
    sys.stdout.flush()
