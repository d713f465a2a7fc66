"""What an earlier call of ``da3 fleet train`` left of a domain: nothing, a run to go on with, or all of it."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from da3.runtime.training import LAST
from da3.runtime.training.checkpoint import Facts, read_facts
from da3.toolchain.backbones import load_weights
from da3.toolchain.errors import CheckpointError, FleetError, TrainingError
from da3.toolchain.fleet.job import Job
from da3.toolchain.fleet.photo_cache import Listed, bring_file, photo_folder, photos_there
from da3.toolchain.fleet.places import below, is_uri, opened, shown, storage
from da3.toolchain.learning import ENGINE, EngineOptions
from da3.toolchain.training.options import TrainOptions

_AT_ONCE = 8  # storages that are asked
_HEAD_LIMIT = 16 << 20  # bytes of a checkpoint's head, as everywhere


class Left(NamedTuple):
    """A job as it is to be done now; ``job`` None where nothing is left to do. ``accuracy``: of what is finished.
    ``begun``: there is a run to go on with."""

    name: str
    job: Job | None
    accuracy: float | None = None
    begun: bool = False


def look_back(jobs: list[Job], overwrite: bool, looked: Callable[[int, int], None] = lambda d, t: None) -> list[Left]:
    """What is left to do of each job. Raises Da3Error, naming the domain, where a run there was made with other options
    or is damaged, unless ``overwrite`` says to train those again; and where there are no photos below a URI."""
    hashes: dict[tuple[str, str, str], str] = {}
    found = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        looks = [pool.submit(_look, job) for job in jobs]
        try:
            for done, (job, look) in enumerate(zip(jobs, looks, strict=True), 1):
                found.append(_left(job, *_named(job, look.result), overwrite, hashes))
                looked(done, len(jobs))
        finally:
            for look in looks:
                look.cancel()
    return found


def _named(
    job: Job, result: Callable[[], tuple[list[Listed], Facts | Exception | None, bool]]
) -> tuple[list[Listed], Facts | Exception | None, bool]:
    try:
        return result()
    except (FleetError, OSError) as error:
        raise FleetError(f"domain {job.name}: {error}") from error


def _look(job: Job) -> tuple[list[Listed], Facts | Exception | None, bool]:
    """(photos below its URI; what its checkpoint says, or what is wrong with it; whether its pack is there)."""
    data = str(job.options.get("data"))
    photos = photos_there(data) if is_uri(data) else []
    facts: Facts | Exception | None
    try:
        facts = facts_of(job)
    except CheckpointError as error:
        facts = error
    return photos, facts, job.pack is None or _exists(job.pack)


def _left(
    job: Job,
    photos: list[Listed],
    facts: Facts | Exception | None,
    packed: bool,
    overwrite: bool,
    hashes: dict[tuple[str, str, str], str],
) -> Left:
    if facts is None:
        return Left(job.name, job)
    try:
        if isinstance(facts, Exception):
            raise facts
        _check_same(job, photos, facts, hashes)
    except (CheckpointError, TrainingError) as error:
        if overwrite:
            return Left(job.name, replace(job, overwrite=True))
        raise FleetError(f"domain {job.name}: {error}") from error
    if packed and facts.progress.finished(facts.config):
        best = facts.progress.best or {}
        return Left(job.name, None, best.get("val_accuracy"), begun=True)
    return Left(job.name, job, begun=True)


def _check_same(job: Job, photos: list[Listed], facts: Facts, hashes: dict[tuple[str, str, str], str]) -> None:
    options = dict(job.options)
    data = str(options.get("data"))
    if is_uri(data):
        options["data"] = None
        here = photo_folder(data, photos, Path(job.cache).expanduser())
        if here.parts[-2:] != Path(facts.config.data).parts[-2:]:
            raise TrainingError(
                f"the photos at {shown(data)} are others than when its run began: train it again with --overwrite"
            )
    options["start"] = None
    runs = Path(job.runs)
    if job.engine == ENGINE:
        own = {name: value for name, value in options.items() if name in EngineOptions._fields}
        EngineOptions(**{**own, "runs": str(runs)}).check_same(facts.config)
    else:
        TrainOptions(**{**options, "runs": runs}).check_same(facts.config)
    weights = options.get("weights")
    arch = facts.config.backbone
    if weights is not None and _sha256(weights, arch, job.cache, hashes) != facts.config.weights_sha256:
        raise TrainingError(f"its run began with other weights than {shown(weights)}: train again with --overwrite")


def _sha256(weights: str, arch: str, cache: str, hashes: dict[tuple[str, str, str], str]) -> str:
    key = (weights, arch, cache)
    if key not in hashes:
        path = str(bring_file(weights, Path(cache).expanduser())) if is_uri(weights) else weights
        hashes[key] = load_weights(path, arch).sha256(arch)
    return hashes[key]


def facts_of(job: Job) -> Facts | None:
    """What the checkpoint of a job says; None where there is none."""
    return _facts(below(job.runs, job.domain, LAST))


def _facts(place: str) -> Facts | None:
    if not is_uri(place):
        return read_facts(place) if Path(place).exists() else None
    system, path = opened(place)
    with storage(place, "read"):
        if not system.exists(path):
            return None
        head = system.cat_file(path, start=0, end=8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if length > _HEAD_LIMIT:
            raise CheckpointError(f"{shown(place)} is damaged or no da3 checkpoint: delete it and train again")
        head = system.cat_file(path, start=0, end=8 + length)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, LAST)
        copy.write_bytes(head)
        try:
            return read_facts(copy)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(copy), shown(place))) from error


def _exists(place: str) -> bool:
    if not is_uri(place):
        return Path(place).exists()
    system, path = opened(place)
    with storage(place):
        return bool(system.exists(path))
