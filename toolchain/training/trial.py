"""What a whole run holds at most, found by a short one on its largest photos, in a process that does nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from da3.runtime.training import ShortRun
from da3.toolchain.backbones import load_weights
from da3.toolchain.backbones.preprocessing import preprocessing_of
from da3.toolchain.methods import method
from da3.toolchain.process.allocator import forget_code, keep_freed_memory, return_freed_memory
from da3.toolchain.process.measured import measured_peak
from da3.toolchain.process.memory import peak_bytes
from da3.toolchain.training.checkpoint import task_of
from da3.toolchain.training.trainee import TorchTrainee

WORKER = "da3.toolchain.training.trial_process"


class Trial(NamedTuple):
    """A short run to try. ``weights`` is what ``load_weights`` takes."""

    short: ShortRun
    weights: str
    device: str

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "short": self.short.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        return cls(**{**data, "short": ShortRun.from_json(data["short"])})

    def measured(self) -> int:
        """``run`` in a process of its own. Raises WorkerError where that fails."""
        return measured_peak(WORKER, self.to_json())

    def run(self) -> int:
        """Train, evaluate and write as ``train`` does, in this process; the most bytes that it held at one time.

        On a GPU the bytes are those of PyTorch's allocator.
        """
        return_freed_memory()
        device = torch.device(self.device)
        config = self.short.config
        weights = load_weights(self.weights, config.backbone)
        torch.manual_seed(config.seed)
        learner = method(config.method)(task_of(config), weights)
        learner.model.to(device)
        keep_freed_memory()
        forget_code()
        self.short.go(TorchTrainee(config, learner, device), preprocessing_of(config.size, weights))
        return peak_bytes(device)
