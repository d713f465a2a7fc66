"""A run's first few steps on its largest photos: what they hold in memory is what the whole run holds at most."""

from typing import Any, Dict, List, NamedTuple

from ..images.preprocess import Preprocessing
from ..system.scratch import temporary_folder
from .config import RunConfig
from .photos import PhotoSet, largest_photos
from .reporter import Reporter
from .run import Run
from .trainee import Trainee

STEPS = 3  # from the third on a step takes no more than the one before


class ShortRun(NamedTuple):
    """workers: how many photos are decoded at once."""

    config: RunConfig
    photos: PhotoSet
    workers: int

    @classmethod
    def of(cls, config: RunConfig, photos: PhotoSet, workers: int, epochs: int = 1) -> "ShortRun":
        """`epochs` of STEPS steps and one batch of validation photos: those of the largest files."""
        batch = config.batch_size
        train, val = largest_photos(photos.train, STEPS * batch), largest_photos(photos.val, batch)
        return cls(config._replace(epochs=epochs), PhotoSet(photos.classes, train, val), workers)

    def with_slices(self, photos: int) -> "ShortRun":
        """The same with so many photos a slice of a batch."""
        memory = self.config.memory._replace(micro_batch=photos)
        return self._replace(config=self.config._replace(memory=memory))

    def go(self, trainee: Trainee, preprocessing: Preprocessing) -> None:
        """Train, evaluate and write as a whole run does, into a folder that is removed again."""
        with temporary_folder("trial") as folder:
            run = Run(
                config=self.config,
                trainee=trainee,
                photos=self.photos,
                preprocessing=preprocessing,
                workers=self.workers,
                folder=folder,
                reporter=Reporter(),
            )
            run.begin()
            run.loop(lambda: False)

    def to_json(self) -> Dict[str, Any]:
        """For another process, which reads it with `from_json`."""
        photos: Dict[str, List[Any]] = {"train": list(self.photos.train), "val": list(self.photos.val)}
        return {"config": self.config.to_json(), "photos": photos, "workers": self.workers}

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "ShortRun":
        config = RunConfig.from_json(data["config"])
        train, val = (tuple((path, label) for path, label in data["photos"][split]) for split in ("train", "val"))
        return cls(config, PhotoSet(config.classes, train, val), data["workers"])
