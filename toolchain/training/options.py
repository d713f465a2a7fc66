"""What a user asks of ``da3 train``, and how it becomes a run's configuration, new or resumed."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from da3.toolchain.backbones import NAMES, WeightsFile
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method
from da3.toolchain.network.adaptor import AdaptorSpec
from da3.toolchain.network.memory_settings import CHOICES, MemorySettings
from da3.toolchain.training.checkpoint import RunConfig
from da3.toolchain.training.defaults import DEFAULT_BATCH, DEFAULTS

_DOMAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class TrainOptions:
    """Options of one training run. None means "not given": the default, or on resume what the run was started with.

    ``workers``, ``device`` and ``micro_batch`` may change between a run and its resumption; the rest decides the result
    and may not.
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
    device: str = "cpu"
    resume: bool = False
    overwrite: bool = False
    # The levers of lean.MemorySettings.
    keep_precision: str | None = None
    backbone_precision: str | None = None
    gradient: str | None = None
    micro_batch: int | None = None
    memory_budget: str | None = None

    @property
    def lean(self) -> MemorySettings:
        """The levers as given, the rest at their defaults."""
        given = {f.name: getattr(self, f.name) for f in fields(MemorySettings)}
        return MemorySettings(**{name: value for name, value in given.items() if value is not None})

    @property
    def folder(self) -> Path:
        return self.runs / self.domain

    def pick(self, name: str) -> object:
        """The given value, or the default."""
        value = getattr(self, name)
        return DEFAULTS[name] if value is None else value

    def check(self) -> None:
        """Raise TrainingError naming the first option that makes no sense."""
        if not _DOMAIN.fullmatch(self.domain) or self.domain == "backbones":
            raise TrainingError(
                f"--domain {self.domain!r}: use letters, digits, _ and - (64 at most), and not the name 'backbones'"
            )
        method(str(self.pick("method")))
        if self.pick("backbone") not in NAMES:
            raise TrainingError(f"--backbone {self.backbone}: known are {', '.join(NAMES)}")
        if self.size is not None and (self.size < 32 or self.size % 32):
            raise TrainingError(f"--size {self.size}: use a multiple of 32, such as 96, 128, 160 or 224")
        limits = {
            "epochs": (1, 100_000),
            "keep": (0.0, 1.0),
            "seed": (0, 2**31),
            "label_smoothing": (0.0, 0.9),
        }
        for name, (low, high) in limits.items():
            value = self.pick(name)
            if not low <= value <= high:  # type: ignore[operator]
                raise TrainingError(f"--{name.replace('_', '-')} {value}: must be between {low} and {high}")
        if self.batch_size is not None and not 1 <= self.batch_size <= 4096:
            raise TrainingError(f"--batch-size {self.batch_size}: must be between 1 and 4096")
        if self.micro_batch is not None and not 0 <= self.micro_batch <= 4096:
            raise TrainingError(f"--micro-batch {self.micro_batch}: must be between 0 and 4096")
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in (None, *known):
                raise TrainingError(f"--{name.replace('_', '-')} {value}: use {' or '.join(known)}")
        if self.lr is not None and not 0 < self.lr < 10:
            raise TrainingError(f"--lr {self.lr}: must be above 0 and below 10")

    def data_folder(self) -> str:
        """The photo folder: as given, or data/<domain> or photos/<domain> where that exists."""
        if self.data is not None:
            return str(Path(self.data).expanduser().resolve())
        for candidate in (Path("data") / self.domain, Path("photos") / self.domain):
            if candidate.is_dir():
                return str(candidate.resolve())
        raise TrainingError(
            f"no photos for {self.domain}: pass --data FOLDER with one subfolder per class "
            f"(looked for data/{self.domain} and photos/{self.domain})"
        )

    def config(self, weights: WeightsFile, classes: tuple[str, ...], photos: int) -> RunConfig:
        """The configuration of a new run on ``photos`` training photos."""
        name = str(self.pick("method"))
        arch = str(self.pick("backbone"))
        return RunConfig(
            domain=self.domain,
            data=self.data_folder(),
            method=name,
            backbone=arch,
            weights_sha256=weights.sha256(arch),
            classes=classes,
            size=self.size or weights.input_size,
            epochs=self.pick("epochs"),  # type: ignore[arg-type]
            # A few dozen photos in batches of 32 would make a step or two an epoch, too few to learn from.
            batch_size=self.batch_size or min(DEFAULT_BATCH, max(8, photos // 8)),
            lr=method(name).default_lr if self.lr is None else self.lr,
            keep=self.pick("keep"),  # type: ignore[arg-type]
            seed=self.pick("seed"),  # type: ignore[arg-type]
            flip=self.pick("flip"),  # type: ignore[arg-type]
            label_smoothing=self.pick("label_smoothing"),  # type: ignore[arg-type]
            adaptor=AdaptorSpec.of(arch),
            lean=self.lean,
        )

    def check_same(self, config: RunConfig) -> None:
        """Raise TrainingError if an option given now differs from what the run was started with."""
        before = {f.name: getattr(config, f.name) for f in fields(config)} | config.lean.to_json()
        changed = [
            f"--{f.name.replace('_', '-')} was {before[f.name]}, now {getattr(self, f.name)}"
            for f in fields(self)
            if f.name in before
            and f.name not in ("domain", "data")
            and getattr(self, f.name) not in (None, before[f.name])
        ]
        changed += [
            f"--{name.replace('_', '-')} was {getattr(config.lean, name)}, now {getattr(self, name)}"
            for name in CHOICES
            if getattr(self, name) not in (None, getattr(config.lean, name))
        ]
        if self.data is not None and self.data_folder() != config.data:
            changed.append(f"--data was {config.data}, now {self.data_folder()}")
        if changed:
            raise TrainingError(
                f"cannot resume {self.folder} with other options ({'; '.join(changed)}): leave them out, "
                f"or start again with --overwrite"
            )
