"""One run: its steps, its evaluations and its checkpoints, resumable at any step with the same result."""

import hashlib
import io
import json
import math
import os
import time
from contextlib import contextmanager
from itertools import count
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional

import numpy as np

from ..errors import TrainingError
from ..images.preprocess import Preprocessing
from ..records import Array, Path
from ..system.atomic import remove_unfinished, sync_folder, write_atomically
from ..system.locking import exclusive
from ..system.scratch import remove_abandoned, scratch_folder
from . import checkpoint
from .augmentation import Augmentation
from .checkpoint import Checkpoint
from .config import Progress, Row, RunConfig
from .group import ALONE, Group
from .loading import Batch, Loader
from .looking import enough, look
from .options_file import OPTIONS, options_toml
from .photos import PhotoSet
from .provenance import Origin, provenance
from .randomness import SAMPLES, STATISTICS
from .recipe import SAMPLE_PHOTOS, SAVE_EVERY, STATISTICS_PHOTOS, rank, schedule
from .reporter import Reporter
from .run_files import BEST, LAST, METRICS, RUN_FILES, SAMPLE_FILE, VALIDATION
from .starting import Start
from .trainee import StepResult, Trainee
from .validation import Validation

Stop = Callable[[], bool]
_BEGINNING = ".beginning-"  # what a folder is called after in which a run's first files wait for all of them


class _Stopped(Exception):
    """The run was asked to stop within a step that has changed nothing yet, so the step can be made again."""


class Run:
    """The state of one run and the steps that change it."""

    def __init__(
        self,
        *,
        config: RunConfig,
        trainee: Trainee,
        photos: PhotoSet,
        preprocessing: Preprocessing,
        workers: int,
        folder: Path,
        reporter: Reporter,
        draw: Optional[Callable[[List[Row], bool], Optional[str]]] = None,
        last_only: bool = False,
        origin: Optional[Origin] = None,
        group: Group = ALONE,
    ) -> None:
        """draw: called with the history after each epoch, and whether that was the last; gives a problem in words, or
        None. last_only: the validation photos are looked at after the last epoch alone, which is then the best. origin:
        what is written down of where the run comes from. group: the processes that make the run together; each has one
        of these, with an equal configuration."""
        self.config, self.trainee, self.draw = config, trainee, draw
        self.folder, self.reporter, self.last_only = os.fspath(folder), reporter, last_only
        self.photos, self.origin = photos, Origin() if origin is None else origin
        self.provenance: Dict[str, Any] = {}
        self.group = group
        self.train_loader = Loader(photos.train, preprocessing, config.batch_size, workers, group)
        self.val_loader = Loader(photos.val, preprocessing, config.batch_size, workers, group)
        self.augmentation = Augmentation(config.flip)
        self.steps = self.train_loader.steps()
        self.total = self.steps * config.epochs
        self.progress = Progress()
        self.saved_at = time.monotonic()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this holds, no other process trains in the run's folder, which is made. Raises InUseError, which says
        who does. Of a group, the first process does this for all."""
        if not self.group.first:
            yield
            return
        os.makedirs(self.folder, exist_ok=True)
        with exclusive(self.folder, patience=0.0) as alone:
            if alone:
                remove_unfinished(self.folder)
                remove_abandoned(self.folder, _BEGINNING)
            yield

    def begin(self, start: Optional[Start] = None) -> None:
        """Look at some photos before the first step, and keep a few for export to verify with. An earlier run is whole
        until all that this one begins with is on the disk; then its files are removed, and whatever else is in the
        folder is not ours. start: what is learnt begins as this; None: anew. Raises CheckpointError where that does not
        fit."""
        chosen = min(STATISTICS_PHOTOS, len(self.train_loader.photos))
        if start is None or start.measures:
            self.trainee.prepare(lambda: self._statistics_photos(chosen))
        if start is not None:
            self.trainee.restore(start.checkpoint(self.trainee.model(), self.config))
        if not self.group.first:
            return
        sample = io.BytesIO()
        np.save(sample, self.val_loader.sample(SAMPLE_PHOTOS, self.config.seed, SAMPLES))
        self.provenance = provenance(self.config, self.photos, self.val_loader.workers, self.origin)
        os.makedirs(self.folder, exist_ok=True)
        with scratch_folder(self.folder, _BEGINNING) as fresh:
            write_atomically(os.path.join(fresh, SAMPLE_FILE), sample.getvalue())
            write_atomically(os.path.join(fresh, OPTIONS), options_toml(self.config, self.origin.options))
            self._save(os.path.join(fresh, LAST))
            self._remove_earlier()
            for name in (SAMPLE_FILE, OPTIONS, LAST):
                os.replace(os.path.join(fresh, name), self._path(name))
            sync_folder(self.folder)

    def _remove_earlier(self) -> None:
        """Remove an earlier run, what it is gone on with first: without that, it is none, and its rest is not taken for
        a finished one."""
        for name in (LAST,) + tuple(name for name in RUN_FILES if name != LAST):
            if os.path.exists(self._path(name)):
                os.remove(self._path(name))
                if name == LAST:
                    sync_folder(self.folder)

    def _statistics_photos(self, chosen: int) -> Iterator[Array]:
        done, part = 0, self.group.part(chosen)
        for pixels in self.train_loader.samples(chosen, self.config.seed, STATISTICS, self.trainee.micro_batch):
            yield pixels
            done += len(pixels)
            self.reporter.preparing(done, part.stop - part.start)

    def go_on_from(self, found: Checkpoint) -> None:
        """Take up the model, optimiser and counters of a checkpoint."""
        self.trainee.restore(found)
        self.progress, self.provenance = found.progress, found.provenance

    def loop(self, stop: Stop) -> bool:
        """Train and validate to the end. False: stopped early, everything saved. A group stops at the same step as
        soon as any of its processes is asked to."""
        progress = self.progress
        asked, stop = stop, lambda: self.group.agree(asked())
        self._check_equal()
        while progress.epoch < self.config.epochs:
            started, done_before = time.monotonic(), progress.step
            if not self._train_epoch(stop):
                self.save()
                return False
            photos_seen = (progress.step - done_before) * self.config.batch_size
            rate = photos_seen / max(time.monotonic() - started, 1e-9)
            found = None
            if not self.last_only or progress.epoch + 1 == self.config.epochs:
                found = self.evaluate(stop)
                if found is None:
                    self.save()
                    return False
            self._end_epoch(found, rate, time.monotonic() - started)
        self._write_reports(True)
        return self._look(stop)

    def _look(self, stop: Stop) -> bool:
        """Write down beside the best of the run what its photos look like, unless that is done. False: stopped."""
        places, path = self.trainee.places(), self._path(BEST)
        train, held_out = self.photos.train, self.photos.val
        if not places or not enough(train, held_out):
            return True
        data = self.group.of_first(lambda: checkpoint.stored(path) if os.path.exists(path) else b"")
        if not data:
            return True
        best = checkpoint.parse(data, path)
        if best.familiar is not None or best.format < checkpoint.FORMAT:
            return True
        try:
            see, prep, workers = self.trainee.see(best), self.val_loader.preprocessing, self.val_loader.workers
            familiar = look(see, places, train, held_out, prep, workers, stop, self.group)
        finally:
            self.trainee.predicted()
        if familiar is not None and self.group.first:
            checkpoint.write(path, best.config, best.progress, best.model, {}, best.provenance, familiar)
        return not stop()

    def _train_epoch(self, stop: Stop) -> bool:
        progress, config = self.progress, self.config
        batches = self.train_loader.training(self.augmentation, config.seed, progress.epoch, progress.step)
        for batch in batches:
            if stop():
                batches.close()
                return False
            try:
                self._step(batch, stop)
            except _Stopped:
                batches.close()
                return False
            memory = self.trainee.peak_bytes()
            self.reporter.step(progress.epoch, progress.step, self.steps, progress.sums, memory)
            if time.monotonic() - self.saved_at > SAVE_EVERY:
                self.save()
        return True

    def _step(self, batch: Batch, stop: Stop) -> None:
        progress = self.progress
        done = progress.epoch * self.steps + progress.step
        self.trainee.revise(done / self.total, lambda draw: self._again(done, draw, stop))
        result = self.trainee.gradients(batch, done / self.total, done)
        if not math.isfinite(result.loss):
            raise TrainingError(
                "the loss became %s in epoch %d: try a lower --lr (it is %g); %s still holds the state before"
                % (result.loss, progress.epoch + 1, self.config.lr, self._path(LAST))
            )
        if result.skipped:
            progress.sums["skipped"] = progress.sums.get("skipped", 0.0) + 1
        else:
            self.trainee.update(self.learning_rate(done))
        self._count(result, batch.whole)

    def _count(self, result: StepResult, photos: int) -> None:
        sums = self.progress.sums
        for key, amount in (
            ("photos", float(photos)),
            ("loss", result.loss * photos),
            ("correct", float(result.correct)),
            ("share", result.share * photos),
        ):
            sums[key] = sums.get(key, 0.0) + amount
        self.progress.step += 1

    def _again(self, done: int, draw: int, stop: Stop) -> Generator[Batch, None, None]:
        """Training photos without end, in orders and augmentations that no epoch has.

        They are a function of the step and of `draw`, so that a resumed run looks at the same. Raises _Stopped.
        """
        seen = 0
        for lap in count():
            key = ((done + 1) * 1000 + draw) * 1000 + lap
            for batch in self.train_loader.training(self.augmentation, self.config.seed, key):
                if stop():
                    raise _Stopped
                yield batch
                seen += 1
                self.reporter.revising(self.progress.epoch, seen)

    def learning_rate(self, done: int) -> float:
        """That of the step after `done` steps."""
        return self.config.lr * schedule(done / self.total, self.trainee.warm_up)

    def evaluate(self, stop: Stop = lambda: False) -> Optional[Validation]:
        """Every answer to the validation photos. None if stopped."""
        costs, photos, done = self.trainee.costs(), self.val_loader.photos, 0
        logits = np.zeros((len(photos), len(costs), len(self.config.classes)), np.float32)
        batches = self.val_loader.evaluation()
        predict = self.trainee.predict()
        try:
            for pixels, labels, whole in batches:
                if stop():
                    return None
                part = self.group.part(whole)
                if len(labels):
                    logits[done + part.start : done + part.stop] = predict(pixels)
                done += whole
        finally:
            batches.close()
            self.trainee.predicted()
        expected = np.array([label for _, label in photos], np.int64)
        return Validation(self.group.joined(logits), expected, costs)

    def _end_epoch(self, found: Optional[Validation], rate: float, seconds: float) -> None:
        progress, sums = self.progress, self.progress.sums
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": sums["loss"] / sums["photos"],
            "train_accuracy": sums["correct"] / sums["photos"],
            "train_share": sums["share"] / sums["photos"],
        }
        if "skipped" in sums:
            row["skipped_steps"] = sums["skipped"]
        row.update({} if found is None else found.scores())
        row["lr"] = self.learning_rate((progress.epoch + 1) * self.steps - 1)
        row["seconds"] = round(seconds, 3)
        row["images_per_second"] = round(rate, 1)
        row["memory_mb"] = round(self.trainee.peak_bytes() / 1e6, 1)
        if self.group.size > 1:
            row["processes"] = self.group.size
        self._check_equal()
        progress.history.append(row)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        last = progress.epoch == self.config.epochs
        if found is not None:
            final = last or self.trainee.is_final(progress.epoch / self.config.epochs)
            best = final and (progress.best is None or rank(row) > rank(progress.best))
            calibrated = found.calibrated(self.config.keep) if best or last else None
            if calibrated is not None:
                row.update(calibrated.scores)
            if last and self.group.first:
                write_atomically(self._path(VALIDATION), found.file())
            if best:
                progress.best = row
                progress.calibration = None if calibrated is None else calibrated.to_json()
                if self.group.first:
                    model = self.trainee.model()
                    checkpoint.write(self._path(BEST), self.config, progress, model, {}, self.provenance)
        self.save()
        self._write_reports(last)
        self.reporter.epoch(row)

    def save(self) -> None:
        """Write the last checkpoint: everything needed to go on from this step."""
        if self.group.first:
            self._save(self._path(LAST))

    def _save(self, path: str) -> None:
        trainee = self.trainee
        model, optimizer = trainee.model(), trainee.optimizer()
        checkpoint.write(path, self.config, self.progress, model, optimizer, self.provenance)
        self.saved_at = time.monotonic()

    def _check_equal(self) -> None:
        """Raise TrainingError where the processes of a group have not learnt the same to the bit: their steps would no
        longer be those of one."""
        if self.group.size == 1:
            return
        found = hashlib.sha256()
        for arrays in (self.trainee.model(), self.trainee.optimizer()):
            for name in sorted(arrays):
                found.update(name.encode("utf-8"))
                found.update(np.ascontiguousarray(arrays[name]).tobytes())
        self.group.check_equal(parameters=found.hexdigest())

    def _write_reports(self, last: bool) -> None:
        history = self.progress.history
        if history and self.group.first:
            lines = "".join(json.dumps(row) + "\n" for row in history)
            write_atomically(self._path(METRICS), lines.encode("utf-8"))
            problem = None if self.draw is None else self.draw(history, last)
            if problem is not None:
                self.reporter.note(problem)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name)
