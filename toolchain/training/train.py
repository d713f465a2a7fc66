"""From what a user asks to a finished, stopped or refused run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from da3.runtime.learning import find_start
from da3.runtime.system import cpu_features, parse_bytes
from da3.runtime.training import (
    ALONE,
    Group,
    Origin,
    PhotoSet,
    Reporter,
    Row,
    Run,
    RunConfig,
    ShortRun,
    default_workers,
    drop_unreadable,
    earlier_run,
    find_photos,
    photos_of,
)
from da3.runtime.training.checkpoint import Checkpoint
from da3.runtime.training.starting import Start, check_start, classes_in_order
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.backbones.preprocessing import preprocessing_of
from da3.toolchain.curves import HistoryPicture
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method
from da3.toolchain.process.allocator import forget_code, keep_freed_memory, return_freed_memory
from da3.toolchain.process.memory import peak_bytes
from da3.toolchain.training.budget import fit
from da3.toolchain.training.checkpoint import BackboneStore, task_of
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.together import check_together
from da3.toolchain.training.trainee import TorchTrainee
from da3.toolchain.training.trial import Trial

if TYPE_CHECKING:  # one process needs none of it, and is to hold none of it
    from da3.toolchain.distributed import Joined


@dataclass(frozen=True)
class Result:
    """How a run ended. ``finished`` is False when it was stopped; it can then be resumed.

    ``peak``: the most bytes that this process held, from its start; on a GPU, of its memory. ``budget``: what was asked
    for, or None.
    """

    folder: Path
    config: RunConfig
    finished: bool
    best: Row | None
    history: list[Row]
    unreadable: tuple[tuple[str, str], ...]
    peak: int
    budget: int | None


def train(
    options: TrainOptions,
    reporter: Reporter,
    stop: Callable[[], bool] = lambda: False,
    joined: Joined | None = None,
) -> Result:
    """Train ``options.domain``; returns when finished, or soon after ``stop()`` turns true, with all of it saved.

    ``joined``: the processes that train it together; each of them calls this with the same options, on its device.

    Writes ``best.safetensors``, ``last.safetensors``, ``metrics.jsonl``, ``curves.png``, ``samples.npy`` and
    ``validation.npz`` into ``runs/<domain>/`` and the backbone into ``runs/backbones/``. Raises Da3Error with one clear
    line: for what costs nothing to find out, before any weights are read or downloaded.
    """
    options.check()
    budget = None if options.memory_budget is None else parse_bytes(options.memory_budget, "--memory-budget")
    return_freed_memory()
    group: Group = ALONE if joined is None else joined
    device = device_named(options.device) if joined is None else joined.device
    folder = options.folder
    resumed = earlier_run(
        folder,
        resume=options.resume,
        overwrite=options.overwrite,
        reporter=reporter,
        check_same=options.check_same,
        group=group,
    )
    store = BackboneStore(options.runs)
    asked, start = options, None
    if resumed is None:
        if options.start is not None:
            start = find_start(options.start, str(options.runs))
            options = _with_weights(options.starting_from(start), start, store)
        photos = classes_in_order(start, find_photos(options.data_folder(), options.with_defaults.seed))
    else:
        photos = photos_of(resumed.config)
    weights = _weights(options, resumed, store, group)
    config = resumed.config if resumed else options.config(weights, photos.classes, len(photos.train))
    if start is not None:
        config = config._replace(adaptor=start.settings["adaptor"])
    if joined is not None:
        check_together(joined, config, photos, budget)
    if budget is not None:
        config = _fit_budget(options, budget, config, photos, resumed is not None, reporter)
    if options.micro_batch is not None:
        config = config._replace(memory=config.memory._replace(micro_batch=options.micro_batch))
    if start is not None:
        check_start(start, config, photos, reporter)
    torch.manual_seed(config.seed)  # for what methods draw that only PyTorch trains
    learner = method(config.method)(task_of(config), weights)  # before the photos are read: its errors are immediate
    learner.model.to(device)
    workers = options.workers or default_workers()
    if joined is not None:
        learner.total = joined.total
        workers = options.workers or min(workers, joined.launch.cores)
    photos = drop_unreadable(photos, config.size, workers, reporter.checking, group)

    keep_freed_memory()
    forget_code()
    picture = HistoryPicture(folder, config.domain)

    def draw(history: list[Row], last: bool) -> str | None:
        keep_freed_memory()  # what no tensor uses goes back first: both processes together stay below the step's peak
        return picture(history, last)

    run = Run(
        config=config,
        trainee=TorchTrainee(config, learner, device),
        photos=photos,
        preprocessing=preprocessing_of(config.size, weights),
        workers=workers,
        folder=folder,
        reporter=reporter,
        draw=draw,
        last_only=options.last_only,
        origin=_origin(asked, start, group),
        group=group,
    )
    with run.alone():
        if resumed is None:
            if group.first:
                store.put(config.backbone, weights)
            run.begin(start)
            forget_code()  # what only statistics run
        else:
            run.go_on_from(resumed)
        trainable = sum(p.numel() for p in learner.parameters())
        reporter.started(config, run.progress, photos, trainable)
        if (
            resumed is None
            and options.backbone_precision is None
            and budget is None
            and _bf16_is_faster(config, device)
        ):
            reporter.note("this CPU computes in bfloat16 (AMX): --backbone-precision bf16 takes about half the time")
        finished = run.loop(stop)
    best, history = run.progress.best, run.progress.history
    return Result(folder, config, finished, best, history, photos.unreadable, peak_bytes(device), budget)


def _bf16_is_faster(config: RunConfig, device: torch.device) -> bool:
    """Whether a run that computes in float32 would be much faster in bfloat16, as measured (docs/method.md)."""
    frozen = config.method in ("da3", "linear") and config.memory.backbone_precision == "fp32"
    return frozen and device.type == "cpu" and "amx_bf16" in cpu_features()


def _origin(asked: TrainOptions, start: Start | None, group: Group) -> Origin:
    others = {
        "engine": "pytorch",
        "from": asked.start,
        "weights": asked.weights if start is not None else asked.with_defaults.weights,
        "runs": str(asked.runs),
        "device": asked.device,
        "workers": asked.workers,
        "memory_budget": asked.memory_budget,
    }
    return Origin("pytorch", asked.command, others, None if start is None else start.facts, group.size)


def _with_weights(options: TrainOptions, start: Start, store: BackboneStore) -> TrainOptions:
    """The same with the weights that the domain was trained on, where no others are given and the store has them."""
    found = store.find(start.settings["weights_sha256"])
    if options.weights is not None or found is None:
        return options
    arch, path = found
    return replace(options, weights=str(path), backbone=options.backbone or arch)


def _weights(options: TrainOptions, resumed: Checkpoint | None, store: BackboneStore, group: Group) -> WeightsFile:
    """Those asked for, or those that the resumed run was started with."""
    if resumed is None:
        asked = options.with_defaults
        return load_weights(asked.weights, asked.backbone)
    arch, sha256 = resumed.config.backbone, resumed.config.weights_sha256
    if options.weights is not None and load_weights(options.weights, arch).sha256(arch) != sha256:
        raise TrainingError(
            f"cannot resume {options.folder} with other weights than it was started with: {options.weights}"
        )
    if not group.first and not store.path(arch, sha256).exists():  # the first process's machine may alone have the runs
        found = load_weights(options.with_defaults.weights, arch)
        if found.sha256(arch) == sha256:
            return found
    return store.get(arch, sha256)


def _fit_budget(
    options: TrainOptions, budget: int, config: RunConfig, photos: PhotoSet, resumed: bool, reporter: Reporter
) -> RunConfig:
    if resumed:
        reporter.note(f"{options.folder} was fitted to a memory budget, or not, when it began: going on as it is")
        return config
    fixed = frozenset(name for name in config.memory._fields if getattr(options, name) is not None)
    workers = options.workers or default_workers()
    short, device = ShortRun.of(config, photos, workers), str(device_named(options.device))
    trial = Trial(short, options.with_defaults.weights, device)
    return fit(config, trial, budget=budget, fixed=fixed, reporter=reporter)


def device_named(name: str) -> torch.device:
    """The device called ``name``; "auto" is a GPU where PyTorch sees one, else the CPU. Raises TrainingError if it is
    unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise TrainingError(f"--device {name}: unknown; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"--device {name}: this PyTorch sees no CUDA device; use --device cpu")
    return device
