"""Whether a run goes on with an earlier one, for every engine: the checkpoint to go on from, and its photos."""

import os
from typing import Callable, Optional

from ..errors import TrainingError
from ..records import Path
from .checkpoint import FORMAT, Checkpoint, parse, stored
from .config import RunConfig
from .group import ALONE, Group
from .photos import PhotoSet, find_photos
from .reporter import Reporter
from .run_files import LAST
from .starting import relabelled


def earlier_run(
    folder: Path,
    *,
    resume: bool,
    overwrite: bool,
    reporter: Reporter,
    check_same: Callable[[RunConfig], None] = lambda config: None,
    group: Group = ALONE,
) -> Optional[Checkpoint]:
    """The run in `folder` to go on with, if any. Raises TrainingError where one is in the way, or cannot be gone on
    with; `check_same` may refuse its configuration too. Of a group, the first process looks for it, and tells the
    others."""
    last = os.path.join(os.fspath(folder), LAST)
    if overwrite:
        return None

    def look() -> bytes:
        if not os.path.exists(last):
            if resume:
                reporter.note("nothing to resume in %s: starting from the beginning" % folder)
            return b""
        if not resume:
            raise TrainingError(
                "%s already holds a run: continue it with --resume, or replace it with --overwrite" % folder
            )
        return stored(last)

    data = group.of_first(look)
    if not data:
        return None
    found = parse(data, last)
    check_same(found.config)
    if found.format < FORMAT and not found.progress.finished(found.config):
        raise TrainingError(
            "%s was begun by an older da3, which trained another way, so its run cannot be resumed: "
            "start again with --overwrite" % folder
        )
    return found


def photos_of(config: RunConfig) -> PhotoSet:
    """The photos of a run to go on with, labelled as it labels them. Raises TrainingError where they have other classes
    now."""
    photos = find_photos(config.data, config.seed)
    if set(photos.classes) != set(config.classes):
        raise TrainingError("the classes in %s changed since the run began: start again with --overwrite" % config.data)
    return relabelled(photos, config.classes)
