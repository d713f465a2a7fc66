"""The PyTorch side of checkpoints: learners and optimisers to arrays and back, and the backbones trained on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from da3.runtime.records import Array
from da3.runtime.system import replace_file, write_atomically
from da3.runtime.training import MemorySettings, Progress, RunConfig
from da3.runtime.training import checkpoint as files
from da3.runtime.training.checkpoint import FORMAT, Checkpoint
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.backbones.weights import StoredTensors
from da3.toolchain.errors import CheckpointError
from da3.toolchain.methods import Learner, Task, method
from da3.toolchain.training.adamw import AdamW


def task_of(config: RunConfig) -> Task:
    """What a run with this configuration learns."""
    return Task(
        arch=config.backbone,
        size=config.size,
        classes=len(config.classes),
        flops_budget=config.keep,
        adaptor=config.adaptor,
        memory=config.memory,
        seed=config.seed,
    )


def arrays_of(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Tensors on any device -> arrays. Raises TypeError for bfloat16, which numpy has not."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def tensors_of(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Arrays -> tensors on the CPU, with memory of their own."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def write(path: Path, config: RunConfig, progress: Progress, learner: Learner, optimizer: AdamW | None) -> None:
    """Write a checkpoint of ``learner`` atomically; without ``optimizer``, one to evaluate and not to go on from."""
    state = {} if optimizer is None else optimizer_arrays(optimizer)
    files.write(path, config, progress, arrays_of(learner.domain_state()), state)


def optimizer_arrays(optimizer: AdamW) -> dict[str, Array]:
    """The optimiser's state as checkpoints have it: of the parameter in place i its ``i.step`` and so on."""
    state = optimizer.state_dict()["state"]
    return arrays_of({f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()})


def learner_of(checkpoint: Checkpoint, weights: WeightsFile) -> Learner:
    """The trained model, rebuilt around the backbone's ``weights`` and ready to evaluate.

    Raises CheckpointError for other weights than it was trained on, or for tensors that do not fit.
    """
    config = checkpoint.config
    if weights.sha256(config.backbone) != config.weights_sha256:
        raise CheckpointError(f"{checkpoint.path} was trained on other backbone weights than {weights.source}")
    # How training saved memory is no matter now: a bundle's backbone is float32, and shared by its domains.
    learner = method(config.method)(task_of(config._replace(memory=MemorySettings())), weights)
    restore(learner, checkpoint)
    learner.eval_mode()
    return learner


def restore(learner: Learner, checkpoint: Checkpoint) -> None:
    """Load the checkpoint's model into ``learner``. Raises CheckpointError where it does not fit, or needs gates."""
    try:
        learner.load_domain_state(tensors_of(_in_todays_form(checkpoint)))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit its own configuration ({error})") from error


def _in_todays_form(checkpoint: Checkpoint) -> dict[str, Array]:
    """The model's arrays: without the gates that formats 1 and 2 had beside each block of a da3 domain, and with zeros
    for what the exits of format 3 did not look at."""
    config = checkpoint.config
    if checkpoint.format == FORMAT or config.method != "da3":
        return checkpoint.model
    if checkpoint.format < 3 and config.keep < 1:
        raise CheckpointError(
            f"{checkpoint.path} was trained by an older da3 with a gate beside each block (--keep {config.keep:g}), "
            f"which this one has no more: train again"
        )
    gone = (".gate", ".gate_bias", "running_share")
    model = {name: array for name, array in checkpoint.model.items() if not name.endswith(gone)}
    for name, array in model.items():
        if name.startswith("exits.") and name.endswith(".down"):
            model[name] = np.concatenate([array, np.zeros_like(array)], 1)
    return model


def restore_optimizer(optimizer: AdamW, checkpoint: Checkpoint, device: torch.device) -> None:
    """Load the checkpoint's optimiser state. Raises CheckpointError where it is another model's."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors_of(checkpoint.optimizer).items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value.to("cpu" if name == "step" else device)
    if not state:
        return
    groups = optimizer.state_dict()["param_groups"]
    # Fewer is right: a bypass has no state before its block is closed.
    if max(state) >= sum(len(group["params"]) for group in groups):
        raise CheckpointError(f"{checkpoint.path} holds the optimiser of another model: use --overwrite")
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class BackboneStore:
    """``runs/backbones/``: one copy of each backbone trained on, so that export needs no other file."""

    def __init__(self, runs: Path):
        self.folder = runs / "backbones"

    def path(self, arch: str, sha256: str) -> Path:
        return self.folder / f"{arch}-{sha256[:12]}.safetensors"

    def find(self, sha256: str) -> tuple[str, Path] | None:
        """The network and the file of the weights with this hash; None where they are not stored."""
        for path in sorted(self.folder.glob(f"*-{sha256[:12]}.safetensors")):
            return path.name[: -len(f"-{sha256[:12]}.safetensors")], path
        return None

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
