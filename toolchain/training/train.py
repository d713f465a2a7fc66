"""From what a user asks to a finished, stopped or refused run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from da3.toolchain.backbones import load_weights
from da3.toolchain.backbones.preprocessing import preprocessing_of
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method
from da3.toolchain.process.allocator import keep_freed_memory, return_freed_memory
from da3.toolchain.training import checkpoint as ckpt
from da3.toolchain.training.budget import fit, parse_bytes
from da3.toolchain.training.checkpoint import BackboneStore, Checkpoint, RunConfig
from da3.toolchain.training.data import default_workers, drop_unreadable, find_photos
from da3.toolchain.training.loop import Run
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import Reporter

RUN_FILES = ("best.safetensors", "last.safetensors", "metrics.jsonl", "curves.png", "samples.npy")


@dataclass(frozen=True)
class Result:
    """How a run ended. ``finished`` is False when it was stopped; it can then be resumed."""

    folder: Path
    config: RunConfig
    finished: bool
    best: dict[str, float] | None
    history: list[dict[str, float]]
    unreadable: tuple[tuple[str, str], ...]


def train(options: TrainOptions, reporter: Reporter, stop: Callable[[], bool] = lambda: False) -> Result:
    """Train ``options.domain``; returns when finished, or soon after ``stop()`` turns true, with all of it saved.

    Writes ``best.safetensors``, ``last.safetensors``, ``metrics.jsonl``, ``curves.png`` and ``samples.npy`` into
    ``runs/<domain>/`` and the backbone into ``runs/backbones/``. Raises Da3Error with one clear line.
    """
    options.check()
    return_freed_memory()
    device = device_named(options.device)
    folder = options.folder
    resumed = _find_run(options, reporter)
    store = BackboneStore(options.runs)
    if resumed is None:
        data, seed = options.data_folder(), int(options.pick("seed"))  # type: ignore[call-overload]
        weights = load_weights(str(options.pick("weights")), str(options.pick("backbone")))
    else:
        data, seed = resumed.config.data, resumed.config.seed
        weights = store.get(resumed.config.backbone, resumed.config.weights_sha256)
        given = options.weights and load_weights(options.weights, resumed.config.backbone)
        if given and given.sha256(resumed.config.backbone) != resumed.config.weights_sha256:
            raise TrainingError(f"cannot resume {folder} with other weights than it was started with: {given.source}")
    photos = find_photos(data, seed)
    config = resumed.config if resumed else options.config(weights, photos.classes, len(photos.train))
    if options.memory_budget is not None:
        config = _fit_budget(options, config, resumed is not None, reporter)
    if options.micro_batch is not None:
        config = replace(config, lean=replace(config.lean, micro_batch=options.micro_batch))
    if photos.classes != config.classes:
        raise TrainingError(f"the classes in {data} changed since the run began: start again with --overwrite")
    torch.manual_seed(config.seed)
    learner = method(config.method)(config.task, weights)  # before the photos are read: its errors are immediate
    learner.model.to(device)
    workers = options.workers or default_workers()
    photos = drop_unreadable(photos, config.size, workers, reporter.checking)

    preprocessing = preprocessing_of(config.size, weights)
    keep_freed_memory()
    run = Run(config, learner, photos, preprocessing, workers, device, folder, reporter)
    if resumed is None:
        for name in RUN_FILES:  # those of an earlier run, with --overwrite; whatever else is there is not ours
            (folder / name).unlink(missing_ok=True)
        store.put(config.backbone, weights)
        run.begin()
    else:
        run.go_on_from(resumed)
    trainable = sum(p.numel() for p in learner.parameters())
    reporter.started(config, run.progress, photos, trainable)
    finished = run.loop(stop)
    return Result(folder, config, finished, run.progress.best, run.progress.history, photos.unreadable)


def _fit_budget(options: TrainOptions, config: RunConfig, resumed: bool, reporter: Reporter) -> RunConfig:
    budget = parse_bytes(str(options.memory_budget))
    if resumed:
        reporter.note(f"{options.folder} was fitted to a memory budget, or not, when it began: going on as it is")
        return config
    fixed = frozenset(name for name in asdict(config.lean) if getattr(options, name) is not None)
    weights = str(options.pick("weights"))
    return fit(config, weights=weights, device=options.device, budget=budget, fixed=fixed, reporter=reporter)


def _find_run(options: TrainOptions, reporter: Reporter) -> Checkpoint | None:
    last = options.folder / "last.safetensors"
    if options.resume and options.overwrite:
        raise TrainingError("--resume and --overwrite exclude each other")
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
    found = ckpt.read(last)
    options.check_same(found.config)
    return found


def device_named(name: str) -> torch.device:
    """The device called ``name``. Raises TrainingError if it is unknown or not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"--device {name}: unknown; use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"--device {name}: this PyTorch sees no CUDA device; use --device cpu")
    return device
