"""What a user asks of ``da3 train --engine onnxruntime``, and how it becomes a run's configuration, new or resumed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from da3.runtime.bundle import Manifest
from da3.runtime.learning import check_keep
from da3.runtime.training import DEFAULTS, AdaptorSpec, CommonOptions, MemorySettings, RunConfig, photo_folder
from da3.runtime.training.limits import check_domain, check_numbers, check_resumable, check_size, check_start
from da3.runtime.training.recipe import LEARNING_RATE, batch_size
from da3.toolchain.errors import TrainingError

ENGINE = "onnxruntime"
ENGINES = ("pytorch", ENGINE)  # of da3 train
_DECIDED = ("backbone", "size", "epochs", "batch_size", "lr", "keep", "seed", "flip", "label_smoothing")


class EngineOptions(NamedTuple):
    """Options of one run, of the meaning that ``TrainOptions`` gives them. None means "not given".

    ``start`` is what the run starts from, as ``find_start`` takes it; ``command``, as it was typed, is written down.

    Those that ``TrainOptions`` has beside these have no meaning here: see ``refuse_others``.
    """

    domain: str
    data: str | None = None
    runs: str = "runs"
    backbone: str | None = None
    weights: str | None = None
    size: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    keep: float | None = None
    seed: int | None = None
    flip: bool | None = None
    label_smoothing: float | None = None
    workers: int | None = None
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False
    micro_batch: int | None = None
    memory_budget: str | None = None
    last_only: bool = False
    start: str | None = None
    command: str | None = None

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.domain

    def check(self) -> None:
        """Raise TrainingError naming the first option that makes no sense."""
        check_domain(self.domain)
        if self.resume and self.overwrite:
            raise TrainingError("--resume and --overwrite exclude each other")
        if self.start is not None:
            check_start(self.resume)
        check_size(self.size)
        numbers = {
            "epochs": self.epochs,
            "keep": self.keep,
            "seed": self.seed,
            "label-smoothing": self.label_smoothing,
            "batch-size": self.batch_size,
            "micro-batch": self.micro_batch,
        }
        check_numbers(numbers, self.lr)
        if importlib.util.find_spec("onnxruntime") is None:
            raise TrainingError(f"--engine {ENGINE}: onnxruntime is not installed: pip install 'da3[cpu]'")

    def config(
        self, manifest: Manifest, classes: tuple[str, ...], photos: int, defaults: CommonOptions = DEFAULTS
    ) -> RunConfig:
        """The configuration of a new run on ``photos`` training photos. Raises TrainingError for a share of FLOPs that
        cannot be reached."""
        given = {name: getattr(self, name) for name in DEFAULTS._fields if getattr(self, name, None) is not None}
        options = defaults._replace(**given)
        check_keep(options.keep, manifest)
        return RunConfig(
            domain=self.domain,
            data=photo_folder(self.domain, self.data),
            method="da3",
            backbone=manifest.arch,
            weights_sha256=manifest.backbone_sha256,
            classes=classes,
            size=manifest.preprocessing.size,
            epochs=options.epochs,
            batch_size=self.batch_size or batch_size(photos),
            lr=LEARNING_RATE if self.lr is None else self.lr,
            keep=options.keep,
            seed=options.seed,
            flip=options.flip,
            label_smoothing=options.label_smoothing,
            adaptor=AdaptorSpec.from_json(manifest.adaptor),
            memory=MemorySettings(keep_precision="fp32", micro_batch=self.micro_batch or 0),
        )

    def check_same(self, config: RunConfig) -> None:
        """Raise TrainingError if the run of this configuration cannot be gone on with: an option differs, or it is one
        that only PyTorch trains. What PyTorch keeps in less than float32 is kept whole here, which is as right."""
        given = {name: getattr(self, name) for name in _DECIDED}
        data = None if self.data is None else photo_folder(self.domain, self.data)
        check_resumable(str(self.folder), given, data, config)
        others = {
            "method": config.method,
            "backbone_precision": config.memory.backbone_precision,
            "gradient": config.memory.gradient,
        }
        try:
            refuse_others(others)
        except TrainingError as error:
            raise TrainingError(f"{self.folder} cannot go on with --engine {ENGINE}: it has {error}") from error


def refuse_others(given: dict[str, Any]) -> None:
    """Raise TrainingError for the first option that asks for what no engine does. ``given``: options by name, None
    where they were not given."""
    means = {
        "method": ("da3", "an engine learns by da3 alone"),
        "device": ("cpu", "the engine learns on the CPU"),
        "keep_precision": ("fp32", "an engine keeps what it needs for the backward pass as it is"),
        "backbone_precision": ("fp32", "an engine learns on the backbone as it is exported"),
        "gradient": ("exact", "an engine's gradients are exact"),
    }
    for name, (only, why) in means.items():
        if given.get(name) not in (None, only) and (name, given[name]) != ("device", "auto"):
            option = name.replace("_", "-")
            raise TrainingError(
                f"--{option} {given[name]}: {why}; leave --{option} out, or train with --engine pytorch"
            )
