"""What a trained domain answers to its validation photos, and at which exits they should leave for ``--keep``."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from da3.runtime.calibration import Answers, Exits, Goal, choose, cross_fit
from da3.runtime.records import Array


@dataclass(frozen=True)
class Validation:
    """Answers to all validation photos. logits: float32 (N, K + 1, classes), of K exits and of the end; labels: int64
    (N,); costs: float64 (K + 1,), the share of the block FLOPs that each answer takes."""

    logits: Array
    labels: Array
    costs: Array

    def scores(self) -> dict[str, float]:
        """``val_loss``, ``val_accuracy`` and ``val_share`` of the last answer."""
        last, labels = torch.from_numpy(self.logits[:, -1]), torch.from_numpy(self.labels)
        return {
            "val_loss": float(F.cross_entropy(last, labels)),
            "val_accuracy": float((last.argmax(1) == labels).float().mean()),
            "val_share": float(self.costs[-1]),
        }

    def file(self) -> bytes:
        """As ``validation.npz`` has it: ``logits``, ``labels`` and ``cost``."""
        data = BytesIO()
        np.savez(data, logits=self.logits, labels=self.labels, cost=self.costs)
        return data.getvalue()

    def calibrated(self, keep: float) -> Calibrated | None:
        """Where photos leave so that ``keep`` of the block FLOPs run on average. None where nobody is to leave."""
        if keep >= 1 or len(self.costs) < 2 or len(self.labels) < 2 or not np.isfinite(self.logits).all():
            return None
        answers, goal = Answers(self.logits, self.labels, self.costs), Goal(most_cost=keep)
        # The choice is made on all photos; what it is worth, on photos that had no part in it.
        choice, worth = choose(answers, goal), cross_fit(answers, goal)
        facts = {
            "goal": {"flops_share": keep},
            "met": choice.met,
            "photos": len(self.labels),
            "cross_fit": worth.facts(worth.cost),
        }
        return Calibrated(choice.exits, facts, {"kept_share": worth.cost, "kept_accuracy": worth.accuracy})


@dataclass(frozen=True)
class Calibrated:
    """``exits``: where photos leave. ``facts``: for what goal, on how many photos, and what it is worth on photos that
    had no part in the choice. ``scores``: of that, what an epoch's row has."""

    exits: Exits
    facts: dict[str, Any]
    scores: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """As a domain has it, ``facts`` under ``calibration``."""
        *temperatures, last = self.exits.temperatures
        rules = zip(self.exits.thresholds, temperatures, strict=True)
        exits = [{"threshold": threshold, "temperature": temperature} for threshold, temperature in rules]
        return {"exits": exits, "temperature": last, "calibration": self.facts}
