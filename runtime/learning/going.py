"""A run of a trainee that graphs train, from its first photo, or from where it was stopped, to its end."""

from typing import Callable, List, NamedTuple, Optional

from ..images.preprocess import Preprocessing
from ..records import Path
from ..training.checkpoint import Checkpoint
from ..training.config import Row, RunConfig
from ..training.photos import PhotoSet, drop_unreadable
from ..training.provenance import Origin
from ..training.reporter import Reporter
from ..training.run import Run
from ..training.starting import Start
from .trainee import GraphTrainee


class Gone(NamedTuple):
    """How it went. finished: False where it was stopped; photos: those that could be read."""

    run: Run
    photos: PhotoSet
    finished: bool


def go(
    trainee: GraphTrainee,
    *,
    config: RunConfig,
    photos: PhotoSet,
    preprocessing: Preprocessing,
    workers: int,
    folder: Path,
    reporter: Reporter,
    origin: Origin,
    resumed: Optional[Checkpoint],
    start: Optional[Start],
    stop: Callable[[], bool],
    draw: Optional[Callable[[List[Row], bool], Optional[str]]] = None,
    last_only: bool = False,
) -> Gone:
    """Train to the end, or until `stop()` turns true, with all of it saved; the trainee is closed then.

    resumed: what to go on from; start: what a new run starts from. For the rest see `Run`. Raises Da3Error.
    """
    try:
        if resumed is None:
            trainee.make_graphs(start is None or start.measures)
        photos = drop_unreadable(photos, config.size, workers, reporter.checking)
        run = Run(
            config=config,
            trainee=trainee,
            photos=photos,
            preprocessing=preprocessing,
            workers=workers,
            folder=folder,
            reporter=reporter,
            draw=draw,
            last_only=last_only,
            origin=origin,
        )
        with run.alone():
            if resumed is None:
                run.begin(start)
            else:
                run.go_on_from(resumed)
                if not run.progress.finished(config):
                    trainee.make_graphs(False)
            reporter.started(config, run.progress, photos, trainee.parameters.count())
            return Gone(run, photos, run.loop(stop))
    finally:
        trainee.close()
