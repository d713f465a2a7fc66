"""A training run as its folder tells it: its epochs, and what it answered to its validation photos after the last."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from da3.runtime.calibration import Answers, Exits, Point, confidence, curve, decide, outcome, softmax
from da3.runtime.errors import CheckpointError, DataError
from da3.runtime.evaluation import Answered, Evaluation, LabelledPhotos, Settings, score
from da3.runtime.records import Array, Domain
from da3.runtime.training import BEST, Row, Validation, checkpoint, deployed, find_photos
from da3.toolchain.report.judged import Judged
from da3.toolchain.runs import FoundRun, find_run

VALIDATION_FILE = "validation.npz"
_LIMIT = 2**31  # bytes of the answers that are read


@dataclass(frozen=True)
class Level:
    """What letting photos leave gives. ``flops_share``, ``accuracy``: 0 to 1."""

    flops_share: float
    accuracy: float


@dataclass(frozen=True)
class Levels:
    """What could be had of the answers to the validation photos. ``curve``: every level that exits can be set to;
    ``answers``: of each exit and the end, if every photo took it; ``chosen``: what the run chose, on these photos.
    ``behind``: the block behind which each exit is."""

    curve: tuple[Point, ...]
    answers: tuple[Level, ...]
    chosen: Level
    behind: tuple[int, ...]


@dataclass(frozen=True)
class RunFacts:
    """``judged`` and ``levels`` are None where the folder has no answers, which ``missing`` explains."""

    run: FoundRun
    judged: Judged | None = None
    levels: Levels | None = None
    missing: str = ""
    notes: tuple[str, ...] = ()

    @property
    def history(self) -> list[Row]:
        return self.run.progress.history


def read_run(name: str, runs: Path, photos: str | None = None) -> RunFacts:
    """The run called ``name``, in the folder ``runs`` or at that path. ``photos``: the folder where its photos are now.

    Raises CheckpointError where it cannot be read, TrainingError where there is none.
    """
    run = find_run(name, runs)
    path = run.folder / VALIDATION_FILE
    if not path.is_file():
        why = "its last epoch is not finished" if not run.finished else f"{VALIDATION_FILE} is not in its folder"
        return RunFacts(run, missing=f"There are no answers to validation photos to look at: {why}.")
    found = _read_validation(path, len(run.config.classes))
    exits = _exits(run, found)
    left = decide(found.logits, exits)
    names, folder, note = _photos(run, found, photos)
    evaluation = _evaluation(run, found, exits, left, names)
    judged = Judged(evaluation, score(evaluation), folder, (None,) * len(names))
    return RunFacts(run, judged, _levels(run, found, exits, left), notes=(note,) if note else ())


def _read_validation(path: Path, classes: int) -> Validation:
    damaged = f"{path} is damaged: train again, or delete it to have a report without it"
    try:
        if path.stat().st_size > _LIMIT:
            raise CheckpointError(damaged)
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            logits, labels, costs = (np.asarray(arrays[name]) for name in ("logits", "labels", "cost"))
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise CheckpointError(damaged) from error
    shaped = logits.ndim == 3 and logits.shape[2] == classes and labels.shape == logits.shape[:1] and len(labels)
    numbers = logits.dtype.kind == "f" and labels.dtype.kind == "i" and costs.dtype.kind == "f"
    if not shaped or not numbers or costs.shape != logits.shape[1:2] or not np.isfinite(costs).all():
        raise CheckpointError(damaged)
    if not np.isfinite(logits).all() or labels.min() < 0 or labels.max() >= classes:
        raise CheckpointError(damaged)
    return Validation(logits, labels.astype(np.int64), costs.astype(np.float64))


def _exits(run: FoundRun, found: Validation) -> Exits:
    """Where photos leave: of the best epoch if that is the last, whose answers these are; else chosen anew for the same
    goal, as that epoch's were."""
    count = len(found.costs) - 1
    best = run.best
    if best is not None and int(best["epoch"]) == run.progress.epoch:
        decided = deployed.decisions(run.progress.calibration, count)
        rules, last = decided.exits, decided.temperature
    else:
        calibrated = found.calibrated(run.config.keep)
        decided = deployed.decisions(None if calibrated is None else calibrated.to_json(), count)
        rules, last = decided.exits, decided.temperature
    if len(rules) != count:
        raise CheckpointError(f"{run.folder} has rules for {len(rules)} exits and answers of {count}: train again")
    return Exits(tuple(rule.threshold for rule in rules), (*(rule.temperature for rule in rules), last))


def _levels(run: FoundRun, found: Validation, exits: Exits, left: Array) -> Levels | None:
    if len(found.costs) < 2:
        return None
    answers = Answers(found.logits, found.labels, found.costs)
    accuracies = answers.right().mean(axis=0)
    chosen = outcome(answers, left)
    return Levels(
        curve=tuple(curve(answers, exits.temperatures)),
        answers=tuple(Level(float(c), float(a)) for c, a in zip(found.costs, accuracies, strict=True)),
        chosen=Level(chosen.cost, chosen.accuracy),
        behind=run.config.adaptor.exits,
    )


def _evaluation(run: FoundRun, found: Validation, exits: Exits, left: Array, names: list[str]) -> Evaluation:
    """The answers as an evaluation, so that they are scored by the same code."""
    photos, ends = np.arange(len(left)), len(found.costs) - 1
    logits = found.logits[photos, left]
    temperatures = np.array(exits.temperatures)[left][:, None]
    probabilities, answers = softmax(logits / temperatures), logits.argmax(axis=1)
    sure = confidence(logits, temperatures)
    own = probabilities[photos, found.labels]
    above = (logits > logits[photos, found.labels][:, None]).sum(axis=1)
    blocks, closed = _blocks_run(run, left, ends)
    counts = np.zeros((len(run.config.classes), blocks.shape[1]), np.int64)
    np.add.at(counts, found.labels, blocks)
    domain = Domain(
        name=run.config.domain,
        classes=run.config.classes,
        backbone_sha256=run.config.weights_sha256,
        size=run.config.size,
        adaptor={},
        metrics={},
        weights={},
        closed=closed,
        exits=exits.rules,
        temperature=exits.temperatures[-1],
    )
    rows = tuple(
        Answered(
            path=name,
            label=int(found.labels[i]),
            answer=int(answers[i]),
            probability=float(sure[i]),
            label_probability=float(own[i]),
            rank=1 + int(above[i]),
            exit=None if left[i] == ends else int(left[i]),
            blocks_run=int(blocks[i].sum()),
            flops_share=min(1.0, float(found.costs[left[i]])),
            engine_s=0.0,
        )
        for i, name in enumerate(names)
    )
    return Evaluation(
        domain=domain,
        arch=run.config.backbone,
        settings=Settings("", "pytorch", None, None, run.config.batch_size, 0, False),
        photos=LabelledPhotos(run.config.data, run.config.data, run.config.classes, ()),
        answered=rows,
        unreadable=(),
        blocks=counts,
        block_names=tuple(f"block {i}" for i in range(blocks.shape[1])),
        batch_s=tuple(0.0 for _ in rows),
        seconds=1.0,
        decode_s=0.0,
    )


def _blocks_run(run: FoundRun, left: Array, ends: int) -> tuple[Array, tuple[int, ...]]:
    """bool (photos, blocks): does the block run? And which ones are closed. No blocks where nobody wrote them down."""
    shut = _closed(run)
    if shut is None or len(run.config.adaptor.exits) != ends:
        return np.zeros((len(left), 0), bool), ()
    last = np.array([*run.config.adaptor.exits, len(shut) - 1])
    ran = np.arange(len(shut))[None, :] <= last[left][:, None]
    return ran & ~shut[None, :], tuple(np.flatnonzero(shut).tolist())


def _closed(run: FoundRun) -> Array | None:
    """bool (blocks,): of a run by da3's own method; other methods have no such tensor."""
    path = run.folder / BEST
    if run.config.method != "da3" or not path.is_file():
        return None
    closed = checkpoint.read(path).model.get("closed")
    return None if closed is None or closed.ndim != 1 else closed.astype(bool)


def _photos(run: FoundRun, found: Validation, given: str | None) -> tuple[list[str], str | None, str]:
    """The names of the validation photos, the folder that they are in, and what is wrong with them, if anything."""
    unnamed = [f"photo {i + 1}" for i in range(len(found.labels))]
    folder = given or run.config.data
    try:
        photos = find_photos(folder, run.config.seed)
    except (DataError, OSError) as error:
        return unnamed, None, f"The photos cannot be shown: {error}. Name their folder with --photos."
    if photos.classes != run.config.classes or [label for _, label in photos.val] != found.labels.tolist():
        return (
            unnamed,
            None,
            (f"The photos cannot be shown: those in {folder} now are not those that the run was validated on."),
        )
    return [os.path.relpath(path, folder).replace(os.sep, "/") for path, _ in photos.val], folder, ""
