"""What a whole run on the engine holds at most, found by a short one on its largest photos, in a process of its own."""

from __future__ import annotations

import tempfile
from typing import Any, NamedTuple

from da3.runtime.bundle import Bundle
from da3.runtime.system import keep_little, peak_bytes
from da3.runtime.training import PhotoSet, Reporter, Run, RunConfig, largest_photos
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning.lean import LeanTrainee
from da3.toolchain.process import Worker

WORKER = "da3.toolchain.learning.trial_process"
STEPS = 3  # from the third on a step takes no more than the one before
EPOCHS = 2  # the first evaluation leaves some memory in pieces: from the second epoch on there is no more of it


class Trial(NamedTuple):
    """A run to try, on the bundle in the folder ``bundle``."""

    config: RunConfig
    photos: PhotoSet
    bundle: str
    workers: int
    threads: int | None

    def shortened(self) -> Trial:
        """``EPOCHS`` of ``STEPS`` steps and one batch of validation photos: those of the largest files."""
        batch = self.config.batch_size
        train, val = largest_photos(self.photos.train, STEPS * batch), largest_photos(self.photos.val, batch)
        photos = PhotoSet(self.photos.classes, train, val)
        return self._replace(config=self.config._replace(epochs=EPOCHS), photos=photos)

    def with_slices(self, photos: int) -> Trial:
        """The same with so many photos a slice of a batch."""
        return self._replace(config=self.config._replace(memory=self.config.memory._replace(micro_batch=photos)))

    def to_json(self) -> dict[str, Any]:
        photos = {"train": self.photos.train, "val": self.photos.val}
        return {**self._asdict(), "config": self.config.to_json(), "photos": photos}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        config = RunConfig.from_json(data["config"])
        train, val = ([(path, label) for path, label in data["photos"][split]] for split in ("train", "val"))
        return cls(**{**data, "config": config, "photos": PhotoSet(config.classes, tuple(train), tuple(val))})


def run_trial(trial: Trial) -> int:
    """Learn, evaluate and write as ``learn_on_engine`` does, in this process; returns the most bytes that it held.

    ``trial`` is shortened already.
    """
    keep_little()
    with Bundle(trial.bundle) as bundle, tempfile.TemporaryDirectory(prefix="da3-trial-") as folder:
        trainee = LeanTrainee(bundle, trial.config, trial.threads)
        try:
            run = Run(
                config=trial.config,
                trainee=trainee,
                photos=trial.photos,
                preprocessing=bundle.manifest.preprocessing,
                workers=trial.workers,
                folder=folder,
                reporter=Reporter(),
            )
            run.begin()
            run.loop(lambda: False)
        finally:
            trainee.close()
    return peak_bytes()


def measured_peak(trial: Trial) -> int:
    """``run_trial`` of a shortened ``trial`` in a process of its own. Raises WorkerError where that fails."""
    with Worker(WORKER, trial.to_json()) as worker:
        for answer in worker.answers():
            if "peak" in answer:
                return int(answer["peak"])
    raise TrainingError("the memory of learning could not be measured: its process ended without a result")
