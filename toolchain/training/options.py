"""What a user asks of ``da3 train``, and how it becomes a run's configuration, new or resumed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from da3.runtime.training import CHOICES, DEFAULTS, CommonOptions, MemorySettings, RunConfig, photo_folder, starting
from da3.runtime.training.limits import check_domain, check_numbers, check_resumable, check_size, check_start
from da3.runtime.training.recipe import batch_size
from da3.runtime.training.starting import Start
from da3.toolchain.backbones import NAMES, WeightsFile
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import adaptor_spec, method

_MAY_CHANGE = ("domain", "data", "workers", "device", "micro_batch")  # of data, check_same compares the folder


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of one training run. None means "not given": the default, or on resume what the run was started with.

    ``workers``, ``device`` and ``micro_batch`` may change between a run and its resumption; the rest decides the result
    and may not. ``keep_precision``, ``backbone_precision``, ``gradient`` and ``micro_batch`` are those of
    ``MemorySettings``; ``memory_budget`` chooses them, and is a size such as 256MB. ``last_only``: the validation
    photos are looked at after the last epoch alone, which is then the best; what is learnt is the same. ``start``: what
    the run starts from, as ``find_start`` takes it. ``command``: as it was typed, to be written down.
    """

    domain: str
    data: str | None = None
    runs: Path = Path("runs")
    method: str | None = None
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
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    keep_precision: str | None = None
    backbone_precision: str | None = None
    gradient: str | None = None
    micro_batch: int | None = None
    memory_budget: str | None = None
    last_only: bool = False
    start: str | None = None
    command: str | None = None

    @property
    def memory(self) -> MemorySettings:
        """The memory settings as given, the rest at their defaults."""
        given = {name: getattr(self, name) for name in MemorySettings._fields}
        return MemorySettings(**{name: value for name, value in given.items() if value is not None})

    @property
    def with_defaults(self) -> CommonOptions:
        """The options that have a default: as given, or that default."""
        given = {name: getattr(self, name) for name in CommonOptions._fields}
        return DEFAULTS._replace(**{name: value for name, value in given.items() if value is not None})

    @property
    def folder(self) -> Path:
        return self.runs / self.domain

    def check(self) -> None:
        """Raise TrainingError naming the first option that makes no sense."""
        check_domain(self.domain)
        if self.resume and self.overwrite:
            raise TrainingError("--resume and --overwrite exclude each other")
        if self.start is not None:
            check_start(self.resume)
        options = self.with_defaults
        method(options.method)
        if options.backbone not in NAMES:
            raise TrainingError(f"--backbone {self.backbone}: known are {', '.join(NAMES)}")
        check_size(self.size)
        numbers = {
            "epochs": options.epochs,
            "keep": options.keep,
            "seed": options.seed,
            "label-smoothing": options.label_smoothing,
            "batch-size": self.batch_size,
            "micro-batch": self.micro_batch,
        }
        check_numbers(numbers, self.lr)
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in (None, *known):
                raise TrainingError(f"{_option(name)} {value}: use {' or '.join(known)}")

    def starting_from(self, start: Start) -> TrainOptions:
        """The same, where nothing else is given with what a run has to share with what it starts from, or has by
        default. The weights are left to the caller."""
        names = ("method", "backbone", "size", *starting.TAKEN_OVER)
        missing = [name for name in names if getattr(self, name) is None and start.settings.get(name) is not None]
        return replace(self, **{name: start.settings[name] for name in missing})

    def data_folder(self) -> str:
        """The photo folder: as given, or data/<domain> or photos/<domain> where that exists."""
        return photo_folder(self.domain, self.data)

    def config(self, weights: WeightsFile, classes: tuple[str, ...], photos: int) -> RunConfig:
        """The configuration of a new run on ``photos`` training photos."""
        options = self.with_defaults
        return RunConfig(
            domain=self.domain,
            data=self.data_folder(),
            method=options.method,
            backbone=options.backbone,
            weights_sha256=weights.sha256(options.backbone),
            classes=classes,
            size=self.size or weights.input_size,
            epochs=options.epochs,
            batch_size=self.batch_size or batch_size(photos),
            lr=method(options.method).default_lr if self.lr is None else self.lr,
            keep=options.keep,
            seed=options.seed,
            flip=options.flip,
            label_smoothing=options.label_smoothing,
            adaptor=adaptor_spec(options.backbone, weights, self.size or weights.input_size),
            memory=self.memory,
        )

    def check_same(self, config: RunConfig) -> None:
        """Raise TrainingError if an option given now differs from what the run was started with."""
        names = [*config.to_json(), *config.memory.to_json()]
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name in names and f.name not in _MAY_CHANGE}
        check_resumable(str(self.folder), given, None if self.data is None else self.data_folder(), config)


def _option(name: str) -> str:
    """The option as it is typed."""
    return f"--{name.replace('_', '-')}"
