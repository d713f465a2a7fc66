"""Training on PyTorch: what a user asks for, the loop, its checkpoints, and what it shows."""

from da3.toolchain.training.checkpoint import BackboneStore, learner_of
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import ConsoleReporter, SilentReporter
from da3.toolchain.training.train import Result, device_named, train

__all__ = [
    "BackboneStore",
    "ConsoleReporter",
    "Result",
    "SilentReporter",
    "TrainOptions",
    "device_named",
    "learner_of",
    "train",
]
