"""What `learn` shows: a line for each epoch; on a terminal one that counts steps, in a log one every few seconds."""

import sys
import time
from typing import Dict, Optional, TextIO

from ..system.durations import duration
from ..training.config import Progress, Row, RunConfig
from ..training.options_file import options_of, toml_lines
from ..training.pace import Pace
from ..training.photos import PhotoSet
from ..training.reporter import Reporter

_REDRAWN_EVERY = 0.2  # seconds
_WIDTH = 79


class TextReporter(Reporter):
    """Plain text on stderr. verbose: the options in effect and each epoch's time too; quiet: problems alone."""

    def __init__(self, err: Optional[TextIO] = None, verbose: bool = False, quiet: bool = False) -> None:
        self._err = sys.stderr if err is None else err
        self._verbose, self._quiet, self._pace = verbose, quiet, Pace()
        self._live = self._err.isatty()
        self._drawn = 0.0
        self._since = time.time()
        self._epochs = self._done = self._begun_at = 0

    def checking(self, done: int, total: int) -> None:
        self._draw("checking photos: %d of %d" % (done, total))

    def preparing(self, done: int, total: int) -> None:
        self._draw("measuring the backbone's activations: %d of %d photos" % (done, total))

    def building(self, what: str, seconds: float, done: bool) -> None:
        if done:
            self._say("built the engine for %s in %s" % (what, duration(seconds)))
        elif seconds == 0 and not self._live:
            self._say("building the engine for %s; on a small board that takes minutes" % what)
        else:
            self._draw("building the engine for %s: %.0f s" % (what, seconds))

    def started(self, config: RunConfig, progress: Progress, photos: PhotoSet, trainable: int) -> None:
        for path, reason in photos.unreadable:
            self.note("skipped: %s" % (reason if path in reason else "%s: %s" % (path, reason)))
        begun = progress.epoch or progress.step
        if self._verbose:
            self._say("\n".join(toml_lines(options_of(config))))
        self._say(
            "%s: %d photos to train on, %d to validate on, %d classes; %s at %d px, %s parameters to train%s"
            % (
                config.domain,
                len(photos.train),
                len(photos.val),
                len(photos.classes),
                config.backbone,
                config.size,
                "{:,}".format(trainable),
                "; resuming at epoch %d, step %d" % (progress.epoch + 1, progress.step) if begun else "",
            )
        )
        self._epochs, self._since, self._done = config.epochs, time.time(), 0

    def step(self, epoch: int, step: int, steps: int, sums: Dict[str, float], memory: int) -> None:
        self._done += 1
        spent = time.time() - self._since
        photos = sums["photos"]
        self._draw(
            "epoch %d/%d, step %d/%d  loss %.3f  accuracy %.1f %%  %.1f images/s  %s to go"
            % (
                epoch + 1,
                self._epochs,
                step,
                steps,
                sums["loss"] / photos,
                100 * sums["correct"] / photos,
                self._done * photos / step / max(spent, 1e-9),
                duration(spent / self._done * (self._epochs * steps - epoch * steps - step)),
            )
        )

    def epoch(self, row: Row) -> None:
        kept = skipped = ""
        if row.get("skipped_steps"):
            skipped = "  %d steps skipped" % row["skipped_steps"]
        if "kept_share" in row:
            kept = ", %.1f %% at %.0f %% with exits" % (100 * row["kept_accuracy"], 100 * row["kept_share"])
        left = self._epochs - int(row["epoch"])
        took = "  %s, learning rate %.2g at its end" % (duration(row["seconds"]), row["lr"]) if self._verbose else ""
        self._say(
            "epoch %d/%d  loss %.3f  accuracy %.1f %%  validation %.1f %%%s  %.1f images/s  memory %.0f MB%s%s%s"
            % (
                row["epoch"],
                self._epochs,
                row["train_loss"],
                100 * row["train_accuracy"],
                100 * row["val_accuracy"],
                kept,
                row["images_per_second"],
                row["memory_mb"],
                skipped,
                took,
                "  about %s to go" % duration(left * row["seconds"]) if left else "",
            )
        )

    def note(self, text: str) -> None:
        self._erase()
        self._err.write(text + "\n")
        self._err.flush()

    def _say(self, text: str) -> None:
        if not self._quiet:
            self.note(text)

    def _draw(self, text: str) -> None:
        if self._quiet:
            return
        if not self._live:
            if self._pace.due():
                self.note(text)
            return
        now = time.time()
        if now - self._drawn > _REDRAWN_EVERY:
            self._drawn = now
            self._err.write("\r%-*s" % (_WIDTH, text[:_WIDTH]))
            self._err.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._err.write("\r%*s\r" % (_WIDTH, ""))
            self._drawn = 0.0
