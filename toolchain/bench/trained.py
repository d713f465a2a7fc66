"""What a finished training run has to say: its accuracies, and every answer to its validation photos."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from da3.runtime.calibration import Answers
from da3.runtime.training.checkpoint import Checkpoint
from da3.toolchain.errors import CheckpointError


@dataclass(frozen=True)
class Trained:
    """Validation accuracy after the last epoch and after the best, and the share of block FLOPs of the last answer.

    ``answers``: of every exit and of the end, after the last epoch; None of a method that has no exits.
    """

    last: float
    best: float
    flops_share: float
    answers: Answers | None = None

    @classmethod
    def of(cls, found: Checkpoint) -> Trained:
        """Of a finished run. Raises CheckpointError if what lies beside its checkpoint is missing or damaged."""
        row = found.progress.history[-1]
        best = found.progress.best or row
        answers = None if found.config.method != "da3" else _read(Path(found.path).with_name("validation.npz"))
        if answers is not None and abs(answers.right()[:, -1].mean() - row["val_accuracy"]) > 1e-4:
            raise CheckpointError(f"{found.path} and the validation.npz beside it are not of one run: {_FIX}")
        return cls(row["val_accuracy"], best["val_accuracy"], row["val_share"], answers)


_FIX = "train it again with --overwrite"


def _read(path: Path) -> Answers:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = Answers(arrays["logits"], arrays["labels"], arrays["cost"])
    except FileNotFoundError as error:
        raise CheckpointError(f"no {path}, which a finished run of da3 has: {_FIX}") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged ({error}): {_FIX}") from error
    logits, labels, costs = found
    if logits.ndim != 3 or (labels.shape, costs.shape) != (logits.shape[:1], logits.shape[1:2]) or not len(labels):
        raise CheckpointError(f"{path} is damaged (its arrays do not fit together): {_FIX}")
    if not np.isfinite(logits).all():
        raise CheckpointError(f"{path} holds NaN or infinity: train again with a lower lr")
    return found
