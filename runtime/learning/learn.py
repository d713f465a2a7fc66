"""From what a user asks to a domain in a bundle, a stopped run, or a refusal."""

import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..bundle.bundle import Bundle
from ..bundle.format import FORMAT as BUNDLE_FORMAT
from ..bundle.packs import put_domain
from ..errors import BundleError, TrainingError
from ..records import Domain
from ..system.memory import peak_bytes
from ..system.sizes import parse_bytes
from ..training.checkpoint import Checkpoint, read
from ..training.config import Row, RunConfig
from ..training.loading import default_workers
from ..training.photos import PhotoSet, find_photos
from ..training.provenance import Origin
from ..training.reporter import Reporter
from ..training.resuming import earlier_run, photos_of
from ..training.run_files import BEST
from ..training.short_run import ShortRun
from ..training.starting import Start, check_start, classes_in_order, defaults
from .budget import TRIAL_EPOCHS, Fitted, fit_budget
from .choosing import best_backend, open_running
from .deploying import learnt_domain
from .going import go
from .options import LearnOptions, check_keep
from .starting import find_start
from .trainee import GraphTrainee
from .trial import ON_THE_CPU, measured_peak


class Learnt(NamedTuple):
    """How a run ended. domain: what was put into the bundle; None where the run was stopped, to be resumed. peak: the
    most bytes that this process held. budget: what was asked for, or None."""

    folder: str
    config: RunConfig
    domain: Optional[Domain]
    best: Optional[Row]
    history: List[Row]
    unreadable: Tuple[Tuple[str, str], ...]
    peak: int
    budget: Optional[int]


def learn(options: LearnOptions, reporter: Reporter, stop: Callable[[], bool] = lambda: False) -> Learnt:
    """Learn `options.domain` and put it into the bundle; returns when that is done, or soon after `stop()` turns true,
    with all of it saved in the runs folder.

    Raises Da3Error with one clear line; the bundle is as before then.
    """
    options.check()
    backend = best_backend() if options.backend == "auto" else options.backend
    budget = None if options.memory_budget is None else parse_bytes(options.memory_budget, "--memory-budget")
    with Bundle(options.bundle) as bundle:
        _check_bundle(bundle)
        resumed = _find_run(options, bundle, reporter)
        start: Optional[Start] = None
        if resumed is None:
            assert options.data is not None
            start = None if options.start is None else find_start(options.start, options.runs, bundle)
            photos = classes_in_order(start, find_photos(options.data, options.seed or 0))
            config = options.config(bundle.manifest, photos.classes, len(photos.train), defaults(start))
            if start is not None:
                check_start(start, config, photos, reporter)
        else:
            photos = photos_of(resumed.config)
            config = options.resumed(resumed.config, bundle.manifest)
        check_keep(config.keep, bundle.manifest)
        workers = options.workers or default_workers()
        if budget is not None:
            config, workers = _fitted(options, budget, backend, config, photos, reporter)
        running = open_running(
            backend,
            threads=options.threads,
            precision=options.precision,
            photos=config.memory.micro_batch,
            apart=options.apart,
            building=reporter.building,
            note=reporter.note,
        )
        trainee = GraphTrainee(bundle, config, running)
        run, photos, finished = go(
            trainee,
            config=config,
            photos=photos,
            preprocessing=bundle.manifest.preprocessing,
            workers=workers,
            folder=options.folder,
            reporter=reporter,
            origin=_origin(options, backend, start),
            resumed=resumed,
            start=start,
            stop=stop,
        )
        domain = None
        if finished:
            domain = learnt_domain(bundle, read(os.path.join(options.folder, BEST)))
            put_domain(bundle, domain)
    best, history = run.progress.best, run.progress.history
    return Learnt(options.folder, config, domain, best, history, photos.unreadable, peak_bytes(), budget)


def _origin(options: LearnOptions, backend: str, start: Optional[Start]) -> Origin:
    others: Dict[str, Any] = {
        "from": options.start,
        "bundle": options.bundle,
        "runs": options.runs,
        "backend": options.backend,
        "precision": options.precision,
        "memory_budget": options.memory_budget,
        "threads": options.threads,
        "workers": options.workers,
    }
    # The bundle decides these, or they are always the same: `learn` has no such options.
    others.update(dict.fromkeys(("method", "backbone", "size", "keep_precision", "backbone_precision", "gradient")))
    return Origin(backend, options.command, others, None if start is None else start.facts)


def _fitted(
    options: LearnOptions, budget: int, backend: str, config: RunConfig, photos: PhotoSet, reporter: Reporter
) -> Fitted:
    """The slices, and the photos decoded at once, that fit the budget."""
    if backend not in ON_THE_CPU:
        raise TrainingError(
            "--memory-budget is measured for learning on the CPU; with --backend %s choose --micro-batch, and look at "
            "the memory that each epoch's line states" % backend
        )
    short = ShortRun.of(config, photos, options.workers or default_workers(), TRIAL_EPOCHS)
    return fit_budget(
        short,
        lambda run: measured_peak(run, options.bundle, backend, options.threads),
        budget=budget,
        config=config,
        slices_fixed=bool(options.micro_batch),
        workers_fixed=options.workers is not None,
        reporter=reporter,
    )


def _check_bundle(bundle: Bundle) -> None:
    bundle.require_directory()
    if bundle.manifest.format != BUNDLE_FORMAT:
        raise BundleError(
            "%s is of format %d, from before there were exits: export it again to learn on it"
            % (bundle.path, bundle.manifest.format)
        )


def _find_run(options: LearnOptions, bundle: Bundle, reporter: Reporter) -> Optional[Checkpoint]:
    """The run to go on with, if any. Raises TrainingError where one is in the way, or a domain of that name."""
    found = earlier_run(options.folder, resume=options.resume, overwrite=options.overwrite, reporter=reporter)
    if found is not None or options.overwrite:
        return found
    if options.photos is None:
        raise TrainingError("which photos? Name a folder with one subfolder per class behind the options")
    if options.domain in bundle.domains:
        raise TrainingError(
            "%s already has a domain %s: replace it with --overwrite, or choose another name"
            % (bundle.path, options.domain)
        )
    return None
