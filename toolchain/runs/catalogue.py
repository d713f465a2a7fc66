"""Which runs a folder holds, and what is known of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from da3.runtime.errors import CheckpointError
from da3.runtime.training import BEST, LAST, Progress, Row, RunConfig
from da3.runtime.training.checkpoint import read_facts
from da3.toolchain.errors import TrainingError


@dataclass(frozen=True)
class FoundRun:
    """A run as its last checkpoint tells it. ``name``: what to call it, its folder as it was found.

    ``seconds``: of all finished epochs, training and validation. ``memory_mb``: the most that the process held, MB of
    10^6 bytes; on a GPU, of its memory. None where no epoch is finished.
    """

    name: str
    folder: Path
    config: RunConfig
    progress: Progress
    provenance: dict[str, Any]

    @property
    def best(self) -> Row | None:
        """The figures of the best epoch."""
        return self.progress.best

    @property
    def finished(self) -> bool:
        return self.progress.finished(self.config)

    @property
    def accuracy(self) -> float | None:
        """On the validation photos, 0 to 1, all that is not closed running."""
        return _figure(self.best, "val_accuracy")

    @property
    def kept_accuracy(self) -> float | None:
        """The same where photos leave at exits; None where nobody does."""
        return _figure(self.best, "kept_accuracy")

    @property
    def flops_share(self) -> float | None:
        """Of the block FLOPs, 0 to 1, as deployed."""
        kept = _figure(self.best, "kept_share")
        return _figure(self.best, "val_share") if kept is None else kept

    @property
    def seconds(self) -> float | None:
        took = [_figure(row, "seconds") or 0.0 for row in self.progress.history]
        return sum(took) if took else None

    @property
    def memory_mb(self) -> float | None:
        held = [_figure(row, "memory_mb") or 0.0 for row in self.progress.history]
        return max(held) if held else None

    def figures(self) -> dict[str, Any]:
        """What was reached and what it took, as JSON has it."""
        return {
            "name": self.name,
            "finished": self.finished,
            "epochs_done": self.progress.epoch,
            "accuracy": self.accuracy,
            "accuracy_with_exits": self.kept_accuracy,
            "flops_share": self.flops_share,
            "best_epoch": int(best) if (best := _figure(self.best, "epoch")) is not None else None,
            "val_loss": _figure(self.best, "val_loss"),
            "seconds": self.seconds,
            "memory_mb": self.memory_mb,
            "begun": _plain(self.provenance.get("begun")),
        }

    def settings(self) -> dict[str, Any]:
        """What decided the result, by the names of the options, and what it was computed with."""
        made = {name: value for name, value in self.config.to_json().items() if name not in ("adaptor", "memory")}
        made["classes"] = list(self.config.classes)
        made.update(self.config.memory.to_json())
        made.update((f"adaptor {name}", value) for name, value in self.config.adaptor.to_json().items())
        told = self.provenance
        photos = _object(told, "photos")
        made["photos"] = _plain(photos.get("sha256"))
        made["photos to train on"] = _plain(photos.get("train"))
        made["photos to validate on"] = _plain(photos.get("val"))
        made["started from"] = _plain(_object(told, "from").get("domain"))
        made.update((name, _plain(told.get(name))) for name in ("engine", "da3", "machine"))
        made.update((f"version of {name}", _plain(version)) for name, version in _object(told, "versions").items())
        return {name.replace("_", "-"): value for name, value in made.items()}


def _figure(row: Row | None, name: str) -> float | None:
    """A figure of an epoch; None where there is none, or no finite number: of a run that went wrong."""
    value = None if row is None else row.get(name)
    return None if value is None or not math.isfinite(value) else value


def _object(told: dict[str, Any], name: str) -> dict[str, Any]:
    """What a run's origin says of something; nothing where it is not of the kind that da3 writes."""
    found = told.get(name)
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> str | int | None:
    """A text or a count that a run's origin tells; None for what da3 does not write there."""
    return value if isinstance(value, (str, int)) else None


def find_runs(runs: Path) -> tuple[list[FoundRun], list[str]]:
    """Every run in the folder ``runs``, by name, and a line for each that cannot be read. Raises TrainingError where
    there is no such folder."""
    if not runs.is_dir():
        raise TrainingError(f"no folder of runs at {runs}: name it with --runs, or train a domain first (da3 train)")
    found, problems = [], []
    for folder in sorted(runs.iterdir()):
        if (folder / LAST).is_file() or (folder / BEST).is_file():
            try:
                found.append(_read(folder.name, folder))
            except CheckpointError as error:
                problems.append(str(error))
    return found, problems


def find_run(named: str, runs: Path) -> FoundRun:
    """The run called ``named`` in the folder ``runs``, or in the folder that is called so.

    Raises CheckpointError where it cannot be read, TrainingError where there is none.
    """
    for folder in (runs / named, Path(named)):
        if (folder / LAST).is_file() or (folder / BEST).is_file():
            return _read(named, folder)
    known = ", ".join(run.name for run in find_runs(runs)[0]) if runs.is_dir() else ""
    raise TrainingError(f"no run {named} in {runs}, and no folder of a run at {named}; there are: {known or 'none'}")


def _read(name: str, folder: Path) -> FoundRun:
    # The best checkpoint alone is what a user may have copied.
    facts = read_facts(folder / LAST if (folder / LAST).is_file() else folder / BEST)
    return FoundRun(name, folder, facts.config, facts.progress, facts.provenance)
