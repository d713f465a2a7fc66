"""Checkpoints: one safetensors file that says everything needed to go on from it, or to rebuild the model."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from da3.runtime.system.atomic import replace_file
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.backbones.weights import StoredTensors
from da3.toolchain.errors import CheckpointError
from da3.toolchain.methods import Learner, Task, method
from da3.toolchain.network.adaptor import AdaptorSpec
from da3.toolchain.network.memory_settings import MemorySettings

FORMAT = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run learns. Two runs with equal configs give equal results."""

    domain: str
    data: str
    method: str
    backbone: str
    weights_sha256: str
    classes: tuple[str, ...]
    size: int
    epochs: int
    batch_size: int
    lr: float
    keep: float
    seed: int
    flip: bool
    label_smoothing: float
    adaptor: AdaptorSpec
    lean: MemorySettings = field(default_factory=MemorySettings)

    @property
    def task(self) -> Task:
        return Task(
            arch=self.backbone,
            size=self.size,
            classes=len(self.classes),
            flops_budget=self.keep,
            adaptor=self.adaptor,
            memory=self.lean,
        )

    @classmethod
    def from_json(cls, data: dict[str, object]) -> RunConfig:
        values = {f.name: data[f.name] for f in fields(cls) if f.name != "lean"}
        values["classes"] = tuple(values["classes"])  # type: ignore[arg-type]
        values["adaptor"] = AdaptorSpec(**values["adaptor"])  # type: ignore[arg-type]
        values["lean"] = MemorySettings(**data.get("lean", {}))  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]


@dataclass
class Progress:
    """Where a run stands: ``step`` batches of ``epoch`` (from 0) are done; ``sums`` are that epoch's so far."""

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read from a file. ``optimizer`` is empty in a best checkpoint."""

    path: Path
    config: RunConfig
    progress: Progress
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    def learner(self, weights: WeightsFile) -> Learner:
        """The trained model, rebuilt around the backbone's ``weights`` and ready to evaluate."""
        if weights.sha256(self.config.backbone) != self.config.weights_sha256:
            raise CheckpointError(f"{self.path} was trained on other backbone weights than {weights.source}")
        # What memory was saved in training is no matter now: a bundle's backbone is float32, and shared by its domains.
        learner = method(self.config.method)(replace(self.config.task, memory=MemorySettings()), weights)
        restore(learner, self)
        learner.eval_mode()
        return learner


def restore(learner: Learner, checkpoint: Checkpoint) -> None:
    """Load the checkpoint's model tensors into ``learner``."""
    try:
        learner.load_domain_state(checkpoint.model)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit its own configuration ({error})") from error


def write(path: Path, config: RunConfig, progress: Progress, learner: Learner, optimizer: dict[str, Tensor]) -> None:
    """Write atomically: a reader sees the old file or the new one, never half of one."""
    tensors = {f"model.{k}": v for k, v in learner.domain_state().items()}
    tensors |= {f"optimizer.{k}": v for k, v in optimizer.items()}
    meta = {"format": FORMAT, "config": asdict(config), "progress": asdict(progress)}
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"da3": json.dumps(meta)})
    write_atomically(path, data)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError if it is missing, damaged or from a newer da3."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}: train the domain first (da3 train --domain ...)")
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})["da3"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        if meta["format"] > FORMAT:
            raise CheckpointError(f"{path} was written by a newer da3: upgrade da3 to read it")
        config, progress = RunConfig.from_json(meta["config"]), Progress(**meta["progress"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no da3 checkpoint ({error}): delete it and train again") from error
    if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
        raise CheckpointError(f"{path} holds NaN or infinity: train again with a lower --lr")
    model = {k[len("model.") :]: v for k, v in tensors.items() if k.startswith("model.")}
    optimizer = {k[len("optimizer.") :]: v for k, v in tensors.items() if k.startswith("optimizer.")}
    return Checkpoint(path, config, progress, model, optimizer)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step, making its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(str(path), lambda file: file.write(data))


class BackboneStore:
    """``runs/backbones/``: one copy of each backbone trained on, so that export needs no other file."""

    def __init__(self, runs: Path):
        self.folder = runs / "backbones"

    def path(self, arch: str, sha256: str) -> Path:
        return self.folder / f"{arch}-{sha256[:12]}.safetensors"

    def put(self, arch: str, weights: WeightsFile) -> None:
        """Store ``weights`` unless they are there."""
        path = self.path(arch, weights.sha256(arch))
        if path.exists():
            return
        if isinstance(weights.state, StoredTensors):  # copied as it is: read whole, it could be most of a run's memory
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(weights.state.path, "rb") as source:
                replace_file(str(path), lambda file: shutil.copyfileobj(source, file))
        else:
            tensors = {k: v.contiguous() for k, v in weights.state.items()}
            write_atomically(path, save(tensors, weights.metadata(arch)))

    def get(self, arch: str, sha256: str) -> WeightsFile:
        """The weights with this hash. Raises CheckpointError if they are gone or damaged."""
        path = self.path(arch, sha256)
        if not path.is_file():
            raise CheckpointError(f"{path} is gone: copy the runs folder whole, with its backbones/")
        weights = load_weights(str(path), arch)
        if weights.sha256(arch) != sha256:
            raise CheckpointError(f"{path} is damaged (its hash differs): delete it and train again")
        return weights
