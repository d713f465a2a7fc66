"""A run that starts from a trained domain instead of from nothing: more photos of its classes, or more classes.

The classes of the domain keep their order, and new ones follow in theirs. A new class starts with the mean of the rows
that the domain's classifiers have: its logit is the mean of theirs, so it is never the largest, and before the first
step every photo is answered as the domain answers it.
"""

import os
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from ..errors import CheckpointError, TrainingError
from ..records import Array
from .checkpoint import FORMAT, Checkpoint, read
from .config import Progress, RunConfig
from .defaults import DEFAULTS, CommonOptions
from .photos import PhotoSet
from .reporter import Reporter
from .run_files import BEST

State = Dict[str, Array]  # what a domain learns, by name, as checkpoints have it

# Rows for each class: of the last classifier and, before their names, of the exits'.
_ROWS = ("head.weight", "head.bias")
# What only a domain has that may close blocks.
_CLOSING = ("closed", "substitutes.")


class Start(NamedTuple):
    """What a run starts from. source: what it is called in messages. classes: those it knows, by label. settings: what
    a run must share with it, or has by default, by the names that RunConfig has. state: what a run has learnt before
    its first step -> the same with what the domain learnt, and its classes alone. measures: whether what is normalised
    by has to be measured on the run's own photos first, since the domain does not say it. facts: see `Origin.start`.
    """

    source: str
    classes: Tuple[str, ...]
    settings: Dict[str, Any]
    state: Callable[[State], State]
    measures: bool
    facts: Dict[str, Any]

    def checkpoint(self, fresh: State, config: RunConfig) -> Checkpoint:
        """What the run goes on from. fresh: what it has learnt before its first step. Raises CheckpointError where the
        domain does not fit the run."""
        model = _with_classes(self.state(fresh), fresh, len(self.classes), len(config.classes), self.source)
        return Checkpoint(self.source, FORMAT, config, Progress(), model, {})


# What a run has to share with what it starts from, and what it takes over where its user says nothing.
MUST_BE_EQUAL = ("method", "backbone", "weights_sha256", "size", "adaptor")
TAKEN_OVER = ("keep", "flip", "label_smoothing")


def defaults(start: Optional[Start]) -> CommonOptions:
    """What a run does where its user says nothing: what the domain's run did, where it is a matter of the photos."""
    if start is None:
        return DEFAULTS
    return DEFAULTS._replace(**{name: start.settings[name] for name in TAKEN_OVER if name in start.settings})


def trained_run(folder: str, name: str) -> Optional[Start]:
    """The best of the run in `folder`, which is called `name`; None where there is none. Raises CheckpointError."""
    path = os.path.join(folder, BEST)
    if not os.path.isfile(path):
        if os.path.isdir(folder):
            raise CheckpointError("%s has no finished model to start from: go on with it first (--resume)" % folder)
        return None
    found = read(path)
    if found.format < FORMAT:
        raise CheckpointError("%s was trained by an older da3, which trained another way: train it again" % path)
    config = found.config
    settings = {key: getattr(config, key) for key in MUST_BE_EQUAL + TAKEN_OVER}
    photos = found.provenance.get("photos")
    facts = {"domain": config.domain, "photos": photos} if photos else {"domain": config.domain}
    return Start(name, config.classes, settings, lambda fresh: found.model, False, facts)


def classes_in_order(start: Optional[Start], photos: PhotoSet) -> PhotoSet:
    """The photos with the labels of a run that starts so: the domain's classes first. Raises TrainingError where one of
    them has no photos any more: it would be forgotten."""
    if start is None:
        return photos
    gone = [name for name in start.classes if name not in photos.classes]
    if gone:
        raise TrainingError(
            "%s knows the class %s, of which there are no photos here: add some, since what a domain sees no more it "
            "forgets" % (start.source, gone[0])
        )
    return relabelled(photos, start.classes + tuple(name for name in photos.classes if name not in start.classes))


def relabelled(photos: PhotoSet, classes: Tuple[str, ...]) -> PhotoSet:
    """The same photos with the same classes in another order."""
    label = [classes.index(name) for name in photos.classes]
    train, val = (tuple((path, label[at]) for path, at in some) for some in (photos.train, photos.val))
    return photos._replace(classes=classes, train=train, val=val)


def check_start(start: Start, config: RunConfig, photos: PhotoSet, reporter: Reporter) -> None:
    """Raise TrainingError where a run of this configuration cannot start from the domain. What there is to know of its
    photos is told."""
    _check_fits(start, config)
    new = config.classes[len(start.classes) :]
    added = ", and new: %s" % ", ".join(new) if new else ""
    reporter.note("starting from %s: its %d classes%s" % (start.source, len(start.classes), added))
    warning = _known_photos(start, config.data, photos)
    if warning is not None:
        reporter.note(warning)


def _check_fits(start: Start, config: RunConfig) -> None:
    for name in MUST_BE_EQUAL:
        had, now = start.settings.get(name), getattr(config, name)
        if had is None or had == now:
            continue
        if name in ("weights_sha256", "adaptor"):
            raise TrainingError(
                "cannot start from %s: it was trained on other weights, or with other adaptors, than this run: leave "
                "--weights and --memory-budget out, or train from the beginning without --from" % start.source
            )
        raise TrainingError(
            "cannot start from %s with --%s %s: it was trained with %s; leave it out, or train without --from"
            % (start.source, name, now, had)
        )


def _known_photos(start: Start, data: str, photos: PhotoSet) -> Optional[str]:
    """A warning where photos that are validated on now may have been trained on before: a folder without val/ is split
    anew when its photos change."""
    if os.path.isdir(os.path.join(data, "train")):
        return None
    before = start.facts.get("photos")
    if before is not None and (before.get("train"), before.get("val")) == (len(photos.train), len(photos.val)):
        return None
    return (
        "note: %s is split into photos to train and to validate on anew, so %s may have been trained on some of the "
        "latter: accuracies will look too good; photos in train/ and val/ stay apart" % (data, start.source)
    )


def _with_classes(before: State, fresh: State, had: int, classes: int, source: str) -> State:
    """`before` for so many classes: the rows that it has, and their mean for each new class."""
    made: State = {}
    for name, array in fresh.items():
        if name not in before:
            if not name.startswith(_CLOSING):
                raise CheckpointError("%s lacks %s, so this run cannot start from it" % (source, name))
            made[name] = array
            continue
        old = before[name]
        if name.endswith(_ROWS) and len(old) == had:
            mean = old.mean(axis=0, dtype=np.float64).astype(old.dtype)
            old = np.concatenate([old] + [mean[np.newaxis]] * (classes - had))
        if old.shape != array.shape:
            raise CheckpointError(
                "%s has %s of shape %s, this run %s, so it cannot start from it"
                % (source, name, list(old.shape), list(array.shape))
            )
        made[name] = old
    return made
