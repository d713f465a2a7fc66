"""What a whole run holds at most, found by a short one on its largest photos, in a process that does nothing else."""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

import torch

from da3.runtime.training import PhotoSet, Reporter, Run, RunConfig, largest_photos
from da3.toolchain.backbones import load_weights
from da3.toolchain.backbones.preprocessing import preprocessing_of
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import method
from da3.toolchain.process.allocator import forget_code, keep_freed_memory, return_freed_memory
from da3.toolchain.process.memory import peak_bytes
from da3.toolchain.process.worker import Worker
from da3.toolchain.training.checkpoint import task_of
from da3.toolchain.training.trainee import TorchTrainee

WORKER = "da3.toolchain.training.trial_process"
STEPS = 3  # from the third on a step takes no more than the one before


class Trial(NamedTuple):
    """A run to try: what ``train`` makes one of. ``weights`` is what ``load_weights`` takes."""

    config: RunConfig
    photos: PhotoSet
    weights: str
    device: str
    workers: int

    def shortened(self) -> Trial:
        """One epoch of ``STEPS`` steps and one batch of validation photos: those of the largest files."""
        batch = self.config.batch_size
        train, val = largest_photos(self.photos.train, STEPS * batch), largest_photos(self.photos.val, batch)
        photos = PhotoSet(self.photos.classes, train, val)
        return self._replace(config=self.config._replace(epochs=1), photos=photos)

    def to_json(self) -> dict[str, Any]:
        photos = {"train": self.photos.train, "val": self.photos.val}
        return {**self._asdict(), "config": self.config.to_json(), "photos": photos}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        config = RunConfig.from_json(data["config"])
        train, val = ([(path, label) for path, label in data["photos"][split]] for split in ("train", "val"))
        return cls(**{**data, "config": config, "photos": PhotoSet(config.classes, tuple(train), tuple(val))})


def run_trial(trial: Trial) -> int:
    """Train, evaluate and write as ``train`` does, in this process; returns the most bytes that it held at one time.

    ``trial`` is shortened already. On a GPU the bytes are those of PyTorch's allocator.
    """
    return_freed_memory()
    device = torch.device(trial.device)
    config = trial.config
    weights = load_weights(trial.weights, config.backbone)
    torch.manual_seed(config.seed)
    learner = method(config.method)(task_of(config), weights)
    learner.model.to(device)
    keep_freed_memory()
    forget_code()
    with tempfile.TemporaryDirectory(prefix="da3-trial-") as folder:
        run = Run(
            config=config,
            trainee=TorchTrainee(config, learner, device),
            photos=trial.photos,
            preprocessing=preprocessing_of(config.size, weights),
            workers=trial.workers,
            folder=folder,
            reporter=Reporter(),
        )
        run.begin()
        run.loop(lambda: False)
    return peak_bytes(device)


def measured_peak(trial: Trial) -> int:
    """``run_trial`` of a shortened ``trial`` in a process of its own. Raises WorkerError where that fails."""
    with Worker(WORKER, trial.to_json()) as worker:
        for answer in worker.answers():
            if "peak" in answer:
                return int(answer["peak"])
    raise TrainingError("the memory of training could not be measured: its process ended without a result")
