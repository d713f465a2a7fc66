"""What the tests of every trainer share: a configuration, reporters that ask to stop, and what a run has left."""

import numpy as np

from da3.runtime.training import AdaptorSpec, Reporter, RunConfig
from da3.runtime.training.checkpoint import read
from da3.runtime.training.config import MemorySettings

CONFIG = RunConfig(
    domain="flowers",
    data="/photos/flowers",
    method="da3",
    backbone="resnet50",
    weights_sha256="ab" * 32,
    classes=("daisy", "rose"),
    size=96,
    epochs=4,
    batch_size=16,
    lr=4e-3,
    keep=0.8,
    seed=3,
    flip=False,
    label_smoothing=0.1,
    adaptor=AdaptorSpec.of("resnet50"),
    memory=MemorySettings(keep_precision="bf16", micro_batch=4),
)


class Stops(Reporter):
    """Asks to stop after a number of steps, as Ctrl-C would."""

    def __init__(self, after):
        self.left = after

    def step(self, *facts):
        self.left -= 1

    def __call__(self):
        return self.left <= 0


class StopsAmidChoice(Reporter):
    """Asks to stop while a block to close is being chosen, after a number of batches looked at for it."""

    def __init__(self, after=10**9):
        self.left, self.seen = after, 0

    def revising(self, epoch, batches):
        self.left -= 1
        self.seen += 1

    def __call__(self):
        return self.left <= 0


def tensors_of(path):
    """All that a checkpoint holds: of the model, and of its optimizer."""
    found = read(path)
    return {**found.model, **{f"optimizer.{name}": array for name, array in found.optimizer.items()}}


def same(left, right):
    """Are they the same arrays under the same names?"""
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def untimed(history):
    """Rows of epochs without what no two runs have alike."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second", "memory_mb")} for row in history]
