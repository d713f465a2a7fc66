"""Frames answered by a domain, and the figures of that."""

import time
from typing import Dict, NamedTuple, Optional

import numpy as np

from ..engine import Runtime
from ..records import Array, Prediction
from .figures import Durations
from .reading import Frame
from .smoothing import Smoother

UNKNOWN = "(unknown)"  # what frames that are none of the domain's are counted as


class Seen(NamedTuple):
    """A frame's answer. latency_s: seconds from the frame's coming to its answer; of them prepare_s went into resizing
    and normalising, engine_s into the engine, and nearly all others into waiting for the frame before."""

    frame: Frame
    prediction: Prediction
    latency_s: float
    prepare_s: float
    engine_s: float


class Watcher:
    """Answers frames with a domain of an opened Runtime, and keeps the figures."""

    def __init__(
        self,
        runtime: Runtime,
        domain: str,
        smooth: int = 1,
        force_all_blocks: bool = False,
        queued: bool = False,
        unknown_below: Optional[float] = None,
    ) -> None:
        """smooth: frames whose probabilities are averaged. unknown_below: see `Runtime.predictions`. queued: every one
        waits for its turn, as a file's do, and that wait is no part of its latency. The engine runs once, on nothing:
        its first run, which is slower, is no frame's."""
        self.figures = Figures()
        self._runtime, self._domain, self._force, self._queued = runtime, domain, force_all_blocks, queued
        self._smoother = Smoother(smooth)
        self._unknown_below = unknown_below
        size = runtime.preprocessing.size
        runtime.run_batch(np.zeros((1, 3, size, size), np.float32), domain, force_all_blocks)

    def __call__(self, frame: Frame) -> Seen:
        start = time.monotonic()
        batch = prepared(frame.image, self._runtime)
        ready = time.monotonic()
        result = self._runtime.run_batch(batch, self._domain, self._force)
        done = time.monotonic()
        prediction = self._smoother(self._runtime.predictions(result, self._unknown_below)[0], frame.scene)
        since = start if self._queued else frame.seen
        seen = Seen(frame, prediction, max(time.monotonic() - since, 0.0), ready - start, done - ready)
        self.figures.add(seen)
        return seen


def prepared(image: Array, runtime: Runtime) -> Array:
    """uint8 (H, W, 3), blue, green, red -> float32 (1, 3, size, size), as of the same picture in a file.

    Colours change places once the picture is small: resizing does not mix them.
    """
    small = runtime.preprocessing.resize_and_crop(image)
    return runtime.preprocessing.normalise(small[None, :, :, ::-1])


class Figures:
    """What watching a stream took so far, in a fixed amount of memory."""

    def __init__(self) -> None:
        self.latency = Durations()
        self.engine = Durations()
        self.prepare = Durations()
        self.flops = 0.0
        self.labels: Dict[str, int] = {}
        self.first: Optional[float] = None  # time.monotonic() of the first frame's coming
        self.last = 0.0  # of the last answer

    def add(self, seen: Seen) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now - seen.latency_s
        self.last = now
        self.latency.add(seen.latency_s)
        self.engine.add(seen.engine_s)
        self.prepare.add(seen.prepare_s)
        self.flops += seen.prediction.flops_share
        label = UNKNOWN if seen.prediction.known is False else seen.prediction.label
        self.labels[label] = self.labels.get(label, 0) + 1

    @property
    def frames(self) -> int:
        """How many were answered."""
        return self.latency.count

    @property
    def seconds(self) -> float:
        """From the first frame's coming to the last answer."""
        return 0.0 if self.first is None else self.last - self.first

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def engine_share(self) -> float:
        """Of the time from frames' coming to their answers, what the engine took."""
        return self.engine.total / self.latency.total if self.latency.total else 0.0

    @property
    def prepare_share(self) -> float:
        return self.prepare.total / self.latency.total if self.latency.total else 0.0

    @property
    def flops_share(self) -> float:
        """Mean share of the blocks' operations that ran."""
        return self.flops / self.frames if self.frames else 0.0
