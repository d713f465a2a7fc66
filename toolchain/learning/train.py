"""From what a user asks to a run that an engine has finished, that was stopped, or that is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from da3.runtime.bundle import Bundle
from da3.runtime.system import parse_bytes, peak_bytes
from da3.runtime.training import (
    DEFAULTS,
    PhotoSet,
    Reporter,
    Row,
    Run,
    RunConfig,
    default_workers,
    drop_unreadable,
    find_photos,
    photo_folder,
)
from da3.runtime.training.checkpoint import FORMAT, Checkpoint, read
from da3.toolchain.curves import HistoryPicture
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning.budget import fit
from da3.toolchain.learning.bundles import bundle_of, new_bundle
from da3.toolchain.learning.lean import LeanTrainee
from da3.toolchain.learning.options import EngineOptions
from da3.toolchain.learning.trial import Trial


class Learnt(NamedTuple):
    """How a run ended. ``finished`` is False when it was stopped; it can then be resumed.

    ``peak``: the most bytes that this process held. ``budget``: what was asked for, or None.
    """

    folder: Path
    config: RunConfig
    finished: bool
    best: Row | None
    history: list[Row]
    unreadable: tuple[tuple[str, str], ...]
    peak: int
    budget: int | None


def learn_on_engine(options: EngineOptions, reporter: Reporter, stop: Callable[[], bool] = lambda: False) -> Learnt:
    """Learn ``options.domain``; returns when finished, or soon after ``stop()`` turns true, with all of it saved.

    Writes what ``da3 train`` writes, and beside the backbone its bundle. Imports no PyTorch: what needs it is done by
    processes that end before the first step. Raises Da3Error with one clear line.
    """
    options.check()
    budget = None if options.memory_budget is None else parse_bytes(options.memory_budget, "--memory-budget")
    runs, folder = Path(options.runs), options.folder
    resumed = _find_run(options, reporter)
    photos = _find_photos(options, resumed)
    if resumed is None:
        arch = options.backbone or DEFAULTS.backbone
        bundle_folder = new_bundle(runs, arch, options.weights or DEFAULTS.weights, options.size)
    else:
        bundle_folder = bundle_of(runs, resumed.config, options.weights)
    workers = options.workers or default_workers()
    with Bundle(bundle_folder) as bundle:
        config = resumed.config if resumed else options.config(bundle.manifest, photos.classes, len(photos.train))
        if options.micro_batch is not None:
            config = config._replace(memory=config.memory._replace(micro_batch=options.micro_batch))
        if budget is not None:
            trial = Trial(config, photos, str(bundle_folder), workers, options.threads)
            config, workers = fit(
                trial,
                budget=budget,
                slices_fixed=bool(options.micro_batch),
                workers_fixed=options.workers is not None,
                reporter=reporter,
            )
        trainee = LeanTrainee(bundle, config, options.threads)
        try:
            photos = drop_unreadable(photos, config.size, workers, reporter.checking)
            run = Run(
                config=config,
                trainee=trainee,
                photos=photos,
                preprocessing=bundle.manifest.preprocessing,
                workers=workers,
                folder=folder,
                reporter=reporter,
                draw=HistoryPicture(folder, config.domain),
                last_only=options.last_only,
            )
            if resumed is None:
                run.begin()
            else:
                run.go_on_from(resumed)
            reporter.started(config, run.progress, photos, trainee.parameters.count())
            finished = run.loop(stop)
        finally:
            trainee.close()
    best, history = run.progress.best, run.progress.history
    return Learnt(folder, config, finished, best, history, photos.unreadable, peak_bytes(), budget)


def _find_photos(options: EngineOptions, resumed: Checkpoint | None) -> PhotoSet:
    if resumed is None:
        seed = DEFAULTS.seed if options.seed is None else options.seed
        return find_photos(photo_folder(options.domain, options.data), seed)
    photos = find_photos(resumed.config.data, resumed.config.seed)
    if photos.classes != resumed.config.classes:
        raise TrainingError(
            f"the classes in {resumed.config.data} changed since the run began: start again with --overwrite"
        )
    return photos


def _find_run(options: EngineOptions, reporter: Reporter) -> Checkpoint | None:
    """The run to go on with, if any. Raises TrainingError where one is in the way."""
    last = options.folder / "last.safetensors"
    if options.overwrite:
        return None
    if not last.exists():
        if options.resume:
            reporter.note(f"nothing to resume in {options.folder}: starting from the beginning")
        return None
    if not options.resume:
        raise TrainingError(
            f"{options.folder} already holds a run: continue it with --resume, or replace it with --overwrite"
        )
    found = read(last)
    options.check_same(found.config)
    if found.format < FORMAT and not found.progress.finished(found.config):
        raise TrainingError(
            f"{options.folder} was begun by an older da3, which trained another way, so its run cannot be resumed: "
            f"start again with --overwrite"
        )
    return found
