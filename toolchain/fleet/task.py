"""What a node does for one domain: bring what it needs, train it in a process of its own, save what comes of it.

It runs as a Ray task. What is lost is raised, so that Ray runs it again, here or elsewhere, and it goes on from the
last checkpoint; what is wrong is returned, in one line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from da3.runtime.errors import Da3Error
from da3.runtime.system import VERSION, scratch_folder
from da3.runtime.training import LAST
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet.board import FAILED, FINISHED, STOPPED
from da3.toolchain.fleet.job import Job
from da3.toolchain.fleet.mirror import Mirror, put_file
from da3.toolchain.fleet.photo_cache import bring_file, bring_photos
from da3.toolchain.fleet.places import is_uri
from da3.toolchain.process.worker import Worker, WorkerError

MODULE = "da3.toolchain.fleet.training_process"
BEAT = 0.5  # seconds between words to the board
_SAVE_EVERY = 2.0  # seconds between looks for a checkpoint to copy to a URI
_BOARD_PATIENCE = 30.0


class LostProcessError(Exception):
    """The process that trained was killed: it may be another time, or on another node, that it is not."""


def train_job(content: dict[str, Any], version: str, board: Any) -> dict[str, Any]:
    """Train one job. ``content``: of a Job; ``version``: of the driver's da3; ``board``: the handle of the actor Board.

    Returns ``state`` (finished, stopped or failed), and ``why`` or ``accuracy``. Raises LostProcessError.
    """
    job = Job(**content)
    if version != VERSION:
        return {"state": FAILED, "why": f"this node has da3 {VERSION}, and the fleet was started by da3 {version}"}
    with _attempt(job, board) as attempt:
        if attempt is None:
            return {"state": STOPPED}
        try:
            return _train(job, attempt)
        except (Da3Error, OSError) as error:
            if attempt.stopping:
                return {"state": STOPPED}
            return {"state": FAILED, "why": str(error)}


class _Attempt:
    """An attempt at a job, as the board knows it."""

    def __init__(self, name: str, number: int, board: Any):
        self.name, self.number, self.board = name, number, board
        self.facts: dict[str, Any] = {}
        self.stopping = False
        self.worker: Worker | None = None
        self.over = threading.Event()

    def at(self, **facts: Any) -> None:
        """What the board is told at the next beat."""
        self.facts = {**self.facts, **facts}

    def beat(self) -> None:
        """Called in a thread of its own: tells the board, and hands on its wish to stop, until the attempt is over."""
        import ray

        asked = False
        while not self.over.wait(BEAT):
            try:
                stop = ray.get(self.board.say.remote(self.name, self.number, self.facts), timeout=_BOARD_PATIENCE)
            except Exception:  # without a board nobody wants this attempt's result; Ray ends it when it knows
                continue
            self.stopping = self.stopping or bool(stop)
            if self.stopping and self.worker is not None and not asked:
                asked = True
                self.worker.ask_to_stop()


@contextmanager
def _attempt(job: Job, board: Any) -> Iterator[_Attempt | None]:
    """None: the fleet is stopping."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    number = ray.get(board.begin.remote(job.name, node), timeout=_BOARD_PATIENCE)
    if not number:
        yield None
        return
    attempt = _Attempt(job.name, number, board)
    thread = threading.Thread(target=attempt.beat, daemon=True)
    thread.start()
    try:
        yield attempt
    finally:
        attempt.over.set()
        thread.join()


def _train(job: Job, attempt: _Attempt) -> dict[str, Any]:
    cache = Path(job.cache).expanduser()
    options = dict(job.options)
    moved = is_uri(str(options.get("data")))
    if moved:
        attempt.at(doing="bringing photos")
        folder = bring_photos(options["data"], cache, lambda done, total: attempt.at(doing=f"photo {done} of {total}"))
        options["data"] = str(folder.resolve())
    for name in ("weights", "start"):
        if is_uri(str(options.get(name))):
            attempt.at(doing=f"bringing {name}")
            options[name] = str(bring_file(options[name], cache))
    if not is_uri(job.runs):
        runs = Path(job.runs)
        Path(runs).mkdir(parents=True, exist_ok=True)
        return _run(job, options, runs, moved, attempt, None)
    work = cache / "work"
    work.mkdir(parents=True, exist_ok=True)
    with scratch_folder(str(work), ".run-") as scratch:
        mirror = Mirror(Path(scratch), job.runs, job.domain)
        attempt.at(doing="looking for a checkpoint")
        mirror.restore()
        return _run(job, options, mirror.runs, moved, attempt, mirror)


def _run(
    job: Job, options: dict[str, Any], runs: Path, moved: bool, attempt: _Attempt, mirror: Mirror | None
) -> dict[str, Any]:
    resume = (runs / job.domain / LAST).exists()
    if resume:
        options["start"] = None  # it is of a new run
    pack = job.pack
    if pack is not None and is_uri(pack):
        pack = str(runs / f"{job.domain}.da3")
    request = {
        "options": {**options, "runs": str(runs), "resume": resume},
        "engine": job.engine,
        "threads": job.cpus,
        "pack": pack,
        "moved": moved,
    }
    attempt.at(doing="starting")
    said: dict[str, Any] = {}
    began = time.monotonic()
    with Worker(MODULE, request, job.cpus) as worker, _following(mirror, attempt):
        attempt.worker = worker
        if attempt.stopping:
            worker.ask_to_stop()
        try:
            for answer in worker.answers():
                said.update(answer)
                attempt.at(**answer)
        except WorkerError as error:
            code = worker.process.poll()
            if code is not None and code < 0 and not attempt.stopping:
                raise LostProcessError(str(error)) from error
            raise
    if mirror is not None:
        attempt.at(doing="saving")
        mirror.save()
    if not said.get("finished"):
        return {"state": STOPPED}
    if pack is not None and job.pack is not None and pack != job.pack:
        put_file(Path(pack), job.pack)
    return {"state": FINISHED, "accuracy": said.get("accuracy"), "seconds": time.monotonic() - began}


@contextmanager
def _following(mirror: Mirror | None, attempt: _Attempt) -> Iterator[None]:
    """Within the block every checkpoint is copied to the URI soon after it is written. A storage that cannot be written
    for a while costs no more than steps that are made again."""
    if mirror is None:
        yield
        return
    over = threading.Event()

    def follow() -> None:
        while not over.wait(_SAVE_EVERY):
            try:
                if mirror.changed():
                    mirror.save()
            except (FleetError, OSError) as error:
                attempt.at(trouble=str(error))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
