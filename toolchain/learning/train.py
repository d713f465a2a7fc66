"""From what a user asks to a run that an engine has finished, that was stopped, or that is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from da3.runtime.bundle import Bundle
from da3.runtime.learning import TRIAL_EPOCHS, find_start, fit_budget, go
from da3.runtime.system import parse_bytes, peak_bytes
from da3.runtime.training import (
    DEFAULTS,
    Origin,
    Reporter,
    Row,
    RunConfig,
    ShortRun,
    default_workers,
    earlier_run,
    find_photos,
    photo_folder,
    photos_of,
)
from da3.runtime.training.starting import Start, check_start, classes_in_order, defaults
from da3.toolchain.curves import HistoryPicture
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning.bundles import bundle_for, bundle_of, new_bundle
from da3.toolchain.learning.lean import LeanTrainee
from da3.toolchain.learning.options import ENGINE, EngineOptions
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
    resumed = earlier_run(
        folder, resume=options.resume, overwrite=options.overwrite, reporter=reporter, check_same=options.check_same
    )
    start: Start | None = None
    if resumed is None:
        start = None if options.start is None else find_start(options.start, options.runs)
        seed = DEFAULTS.seed if options.seed is None else options.seed
        photos = classes_in_order(start, find_photos(photo_folder(options.domain, options.data), seed))
        bundle_folder = _bundle_of_new(options, start)
    else:
        photos = photos_of(resumed.config)
        bundle_folder = bundle_of(runs, resumed.config, options.weights)
    workers = options.workers or default_workers()
    with Bundle(bundle_folder) as bundle:
        if resumed is None:
            config = options.config(bundle.manifest, photos.classes, len(photos.train), defaults(start))
        else:
            config = resumed.config
        if options.micro_batch is not None:
            config = config._replace(memory=config.memory._replace(micro_batch=options.micro_batch))
        if budget is not None:
            config, workers = fit_budget(
                ShortRun.of(config, photos, workers, TRIAL_EPOCHS),
                lambda short: Trial(short, str(bundle_folder), options.threads).measured(),
                budget=budget,
                config=config,
                slices_fixed=bool(options.micro_batch),
                workers_fixed=options.workers is not None,
                reporter=reporter,
            )
        if start is not None:
            check_start(start, config, photos, reporter)
        trainee = LeanTrainee(bundle, config, options.threads)
        run, photos, finished = go(
            trainee,
            config=config,
            photos=photos,
            preprocessing=bundle.manifest.preprocessing,
            workers=workers,
            folder=folder,
            reporter=reporter,
            origin=_origin(options, start),
            resumed=resumed,
            start=start,
            stop=stop,
            draw=HistoryPicture(folder, config.domain),
            last_only=options.last_only,
        )
    best, history = run.progress.best, run.progress.history
    return Learnt(folder, config, finished, best, history, photos.unreadable, peak_bytes(), budget)


def _bundle_of_new(options: EngineOptions, start: Start | None) -> Path:
    """The bundle of the backbone that a new run learns on: what is asked for, or what it starts from was trained on."""
    runs = Path(options.runs)
    if start is None:
        arch = options.backbone or DEFAULTS.backbone
        return new_bundle(runs, arch, options.weights or DEFAULTS.weights, options.size)
    had = start.settings
    for name in ("method", "backbone", "size"):
        given = {"method": "da3"}.get(name, getattr(options, name, None))
        if had[name] is not None and given not in (None, had[name]):
            raise TrainingError(
                f"cannot start from {start.source} with --{name} {given}: it was trained with {had[name]}"
            )
    arch = options.backbone or had["backbone"]
    return bundle_for(runs, arch, had["weights_sha256"], had["size"], had["adaptor"], options.weights)


def _origin(options: EngineOptions, start: Start | None) -> Origin:
    others = {
        "engine": ENGINE,
        "from": options.start,
        "weights": options.weights if start is not None else options.weights or DEFAULTS.weights,
        "runs": options.runs,
        "workers": options.workers,
        "memory_budget": options.memory_budget,
    }
    return Origin(ENGINE, options.command, others, None if start is None else start.facts)
