"""What ``da3 train`` shows: a line an epoch, a live bar on a terminal, and in a log a line every few seconds."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from da3.runtime.system import duration
from da3.runtime.training import Pace, PhotoSet, Reporter, Row, RunConfig, options_file
from da3.runtime.training import Progress as RunProgress


class ConsoleReporter(Reporter):
    """Reports a run to people; use as a context manager so that the bar always ends cleanly."""

    def __init__(self, console: Console | None = None, lines: bool = True, verbose: bool = False, quiet: bool = False):
        """``lines``: also what is trained and how each epoch ended. ``verbose``: also the options in effect, and what
        each epoch took. ``quiet``: problems alone."""
        self.lines, self.verbose, self.quiet, self.pace = lines and not quiet, verbose, quiet, Pace()
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[facts]}"),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.epochs = self.seen = self.total = 0
        self.since = time.monotonic()

    def __enter__(self) -> ConsoleReporter:
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()

    def _show(self, description: str, done: float, total: float, facts: str = "", left: str = "") -> None:
        if self.quiet:
            return
        if not self.console.is_terminal:
            if self.pace.due():
                told = (f"{description}: {done:.0f} of {total:.0f}", facts, left)
                self.note("  ".join(text for text in told if text))
            return
        if self.task is None:
            self.task = self.bar.add_task(description, total=total, facts=facts, left=left)
        self.bar.update(self.task, description=description, completed=done, total=total, facts=facts, left=left)

    def checking(self, done: int, total: int) -> None:
        self._show("checking photos", done, total)

    def preparing(self, done: int, total: int) -> None:
        self._show("measuring the backbone's activations", done, total)

    def started(self, config: RunConfig, progress: RunProgress, photos: PhotoSet, trainable: int) -> None:
        for path, reason in photos.unreadable:
            self.note(f"skipped: {reason if path in reason else f'{path}: {reason}'}")
        begun = progress.epoch or progress.step
        if self.verbose:
            self._line("\n".join(options_file.toml_lines(options_file.options_of(config))))
        self._line(
            f"{config.domain}: {len(photos.train)} photos to train on, {len(photos.val)} to validate on, "
            f"{len(photos.classes)} classes; {config.method} on {config.backbone} at {config.size} px, "
            f"{trainable:,} parameters to train"
            + (f"; resuming at epoch {progress.epoch + 1}, step {progress.step}" if begun else "")
        )
        self.epochs = config.epochs
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        self.since, self.seen = time.monotonic(), 0

    def step(self, epoch: int, step: int, steps: int, sums: dict[str, float], memory: int) -> None:
        self.seen += 1
        spent = time.monotonic() - self.since
        rate = self.seen * sums["photos"] / step / max(spent, 1e-9)
        done, total = epoch * steps + step, self.epochs * steps
        self._show(
            f"epoch {epoch + 1}/{self.epochs}",
            done,
            total,
            f"{rate:.0f} images/s  loss {sums['loss'] / sums['photos']:.3f}  "
            f"accuracy {sums['correct'] / sums['photos']:.1%}  memory {memory / 1e6:.0f} MB",
            f"{duration(spent / self.seen * (total - done))} to go",
        )

    def revising(self, epoch: int, batches: int) -> None:
        if self.task is not None:
            self.bar.update(
                self.task, description=f"epoch {epoch + 1}/{self.epochs}, choosing a block to close: batch {batches}"
            )

    def epoch(self, row: Row) -> None:
        closed = f" at {row['val_share']:.0%} of the block FLOPs" if row["val_share"] < 1 else ""
        if "kept_share" in row:
            closed += f", {row['kept_accuracy']:.1%} at {row['kept_share']:.0%} with exits"
        self._line(
            f"epoch {row['epoch']:.0f}/{self.epochs}  loss {row['train_loss']:.3f}  "
            f"accuracy {row['train_accuracy']:.1%}  validation {row['val_accuracy']:.1%}{closed}  "
            f"{row['images_per_second']:.0f} images/s  memory {row['memory_mb']:.0f} MB"
            + (f"  {duration(row['seconds'])}, learning rate {row['lr']:.2g} at its end" if self.verbose else "")
        )

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def _line(self, text: str) -> None:
        if self.lines:
            self.note(text)


class SilentReporter(Reporter):
    """Says nothing: for use as a library."""
