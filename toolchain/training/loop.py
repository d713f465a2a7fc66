"""One run of one method: its steps, its evaluations and its checkpoints, resumable at any step with the same result."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from da3.runtime.images import Preprocessing
from da3.runtime.records import Array
from da3.runtime.system import write_atomically
from da3.runtime.training import Augmentation, Loader, PhotoSet, Progress, RunConfig
from da3.runtime.training.checkpoint import Checkpoint
from da3.runtime.training.randomness import SAMPLES, STATISTICS
from da3.runtime.training.recipe import (
    BETAS,
    EPSILON,
    SAMPLE_PHOTOS,
    SAVE_EVERY,
    STATISTICS_PHOTOS,
    WEIGHT_DECAY,
    rank,
    schedule,
)
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import Learner
from da3.toolchain.methods.base import Batch
from da3.toolchain.process.memory import peak_bytes
from da3.toolchain.training import checkpoint as ckpt
from da3.toolchain.training.adamw import AdamW
from da3.toolchain.training.progress import Reporter
from da3.toolchain.training.reports import Reports
from da3.toolchain.training.validation import Validation


class _Stopped(Exception):
    """The run was asked to stop within a step that has changed nothing yet, so the step can be made again."""


class Run:
    """The state of one run and the steps that change it."""

    def __init__(
        self,
        *,
        config: RunConfig,
        learner: Learner,
        photos: PhotoSet,
        preprocessing: Preprocessing,
        workers: int,
        device: torch.device,
        folder: Path,
        reporter: Reporter,
        last_only: bool = False,
    ):
        self.config, self.learner, self.device = config, learner, device
        self.folder, self.reporter, self.last_only = folder, reporter, last_only
        self.train_loader = Loader(photos.train, preprocessing, config.batch_size, workers)
        self.val_loader = Loader(photos.val, preprocessing, config.batch_size, workers)
        self.augmentation = Augmentation(config.flip)
        self.optimizer = AdamW(learner.parameters(), lr=config.lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)
        self.steps = self.train_loader.steps()
        self.total = self.steps * config.epochs
        self.progress = Progress()
        self.saved_at = time.monotonic()
        self.reports = Reports(folder, config.domain)

    def begin(self) -> None:
        """Look at some photos before the first step, and keep a few for export to verify with."""
        count = min(STATISTICS_PHOTOS, len(self.train_loader.photos))
        self.learner.prepare(lambda: self._statistics_batches(count))
        sample = BytesIO()
        np.save(sample, self.val_loader.sample(SAMPLE_PHOTOS, self.config.seed, SAMPLES))
        write_atomically(self.folder / "samples.npy", sample.getvalue())
        self.save()

    def _statistics_batches(self, count: int) -> Iterator[Tensor]:
        done = 0
        slices = self.train_loader.samples(count, self.config.seed, STATISTICS, self.learner.micro_batch)
        for pixels in slices:
            yield self.learner.normalise(self._tensor(pixels))
            done += len(pixels)
            self.reporter.preparing(done, count)

    def go_on_from(self, found: Checkpoint) -> None:
        """Take up the model, optimiser and counters of a checkpoint."""
        ckpt.restore(self.learner, found)
        self.progress = found.progress
        ckpt.restore_optimizer(self.optimizer, found, self.device)

    def loop(self, stop: Callable[[], bool]) -> bool:
        """Train and validate to the end. False: stopped early, everything saved."""
        progress = self.progress
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
        return True

    def _train_epoch(self, stop: Callable[[], bool]) -> bool:
        progress, config = self.progress, self.config
        batches = self.train_loader.training(self.augmentation, config.seed, progress.epoch, progress.step)
        for pixels, labels in batches:
            if stop():
                batches.close()
                return False
            try:
                self._step(self._tensor(pixels), self._tensor(labels), stop)
            except _Stopped:
                batches.close()
                return False
            self.reporter.step(progress.epoch, progress.step, self.steps, progress.sums, peak_bytes(self.device))
            if time.monotonic() - self.saved_at > SAVE_EVERY:
                self.save()
        return True

    def _step(self, pixels: Tensor, labels: Tensor, stop: Callable[[], bool]) -> None:
        progress = self.progress
        done = progress.epoch * self.steps + progress.step
        # PyTorch's own generator is for the dropout of methods that only PyTorch trains: a function of the step alone,
        # so that a resumed run draws what an uninterrupted one would have.
        torch.manual_seed((self.config.seed * 1_000_003 + done) % 2**63)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(done)
        self.learner.revise(done / self.total, lambda draw: self._again(done, draw, stop))
        self.learner.train_mode(done / self.total)
        self.optimizer.zero_grad(set_to_none=True)
        result = self.learner.step(pixels, labels, self.config.label_smoothing)
        if not math.isfinite(result.loss):
            raise TrainingError(
                f"the loss became {result.loss} in epoch {progress.epoch + 1}: try a lower --lr "
                f"(it is {self.config.lr:g}); {self.folder / 'last.safetensors'} still holds the state before"
            )
        self.optimizer.step()
        count = len(labels)
        for key, amount in {
            "photos": count,
            "loss": result.loss * count,
            "correct": result.correct,
            "share": result.share * count,
        }.items():
            progress.sums[key] = progress.sums.get(key, 0.0) + amount
        progress.step += 1

    def _again(self, done: int, draw: int, stop: Callable[[], bool]) -> Generator[Batch, None, None]:
        """Training photos without end, in orders and augmentations that no epoch has.

        They are a function of the step and of ``draw``, so that a resumed run looks at the same. Raises _Stopped.
        """
        seen = 0
        for lap in count():
            key = ((done + 1) * 1_000 + draw) * 1_000 + lap
            for pixels, labels in self.train_loader.training(self.augmentation, self.config.seed, key):
                if stop():
                    raise _Stopped
                yield self._tensor(pixels), self._tensor(labels)
                seen += 1
                self.reporter.revising(self.progress.epoch, seen)

    def learning_rate(self, done: int) -> float:
        """That of the step after ``done`` steps."""
        return self.config.lr * schedule(done / self.total, self.learner.warm_up)

    @torch.no_grad()
    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> Validation | None:
        """Every answer to the validation photos. None if stopped."""
        self.learner.eval_mode()
        logits, expected = [], []
        batches = self.val_loader.evaluation()
        for pixels, labels in batches:
            if stop():
                batches.close()
                return None
            logits.append(self.learner.predict(self._tensor(pixels)).answers.cpu().numpy())
            expected.append(labels)
        costs = np.array(self.learner.answer_costs())
        return Validation(np.concatenate(logits), np.concatenate(expected), costs)

    def _end_epoch(self, found: Validation | None, rate: float, seconds: float) -> None:
        progress, sums = self.progress, self.progress.sums
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": sums["loss"] / sums["photos"],
            "train_accuracy": sums["correct"] / sums["photos"],
            "train_share": sums["share"] / sums["photos"],
            **({} if found is None else found.scores()),
            "lr": self.learning_rate((progress.epoch + 1) * self.steps - 1),
            "seconds": round(seconds, 3),
            "images_per_second": round(rate, 1),
            "memory_mb": round(peak_bytes(self.device) / 1e6, 1),
        }
        progress.history.append(row)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}
        last = progress.epoch == self.config.epochs
        if found is not None:
            final = last or self.learner.is_final(progress.epoch / self.config.epochs)
            best = final and (progress.best is None or rank(row) > rank(progress.best))
            calibrated = found.calibrated(self.config.keep) if best or last else None
            if calibrated is not None:
                row.update(calibrated.scores)
            if last:
                write_atomically(self.folder / "validation.npz", found.file())
            if best:
                progress.best = row
                progress.calibration = None if calibrated is None else calibrated.to_json()
                ckpt.write(self.folder / "best.safetensors", self.config, progress, self.learner, None)
        self.save()
        self._write_reports(last)
        self.reporter.epoch(row)

    def save(self) -> None:
        """Write ``last.safetensors``: everything needed to go on from this step."""
        ckpt.write(self.folder / "last.safetensors", self.config, self.progress, self.learner, self.optimizer)
        self.saved_at = time.monotonic()

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _write_reports(self, last: bool) -> None:
        problem = self.reports.write(self.progress.history, last)
        if problem is not None:
            self.reporter.note(problem)
