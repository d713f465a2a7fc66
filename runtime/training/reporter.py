"""Who is told how a run goes."""

from typing import Dict

from .config import Progress, Row, RunConfig
from .photos import PhotoSet


class Reporter:
    """Says nothing: for use as a library, and as the base of those that say some of it. All methods are called from the
    training thread."""

    def checking(self, done: int, total: int) -> None:
        """So many photos were checked."""

    def preparing(self, done: int, total: int) -> None:
        """So many photos were looked at before the first step."""

    def building(self, what: str, seconds: float, done: bool) -> None:
        """An engine is being built for that long, or was: `what` it is for, in words."""

    def started(self, config: RunConfig, progress: Progress, photos: PhotoSet, trainable: int) -> None:
        """The steps begin, with so many numbers to train."""

    def step(self, epoch: int, step: int, steps: int, sums: Dict[str, float], memory: int) -> None:
        """That many steps of an epoch (from 0) are done. sums: see Progress. memory: the peak so far, bytes."""

    def revising(self, epoch: int, batches: int) -> None:
        """So many batches were looked at to choose a block to close."""

    def epoch(self, row: Row) -> None:
        """An epoch ended."""

    def note(self, text: str) -> None:
        """A sentence for people."""
