"""What a trained domain answers to its validation photos, and at which exits they should leave for `--keep`."""

import io
from typing import Any, Dict, NamedTuple, Optional

import numpy as np

from ..calibration import Answers, Exits, Goal, choose, cross_fit
from ..records import Array


class Calibrated(NamedTuple):
    """exits: where photos leave. facts: for what goal, on how many photos, and what it is worth on photos that had no
    part in the choice. scores: of that, what an epoch's row has."""

    exits: Exits
    facts: Dict[str, Any]
    scores: Dict[str, float]

    def to_json(self) -> Dict[str, Any]:
        """As a domain has it, `facts` under `calibration`."""
        exits = [dict(rule._asdict()) for rule in self.exits.rules]
        return {"exits": exits, "temperature": self.exits.temperatures[-1], "calibration": self.facts}


class Validation(NamedTuple):
    """Answers to all validation photos. logits: float32 (N, K + 1, classes), of K exits and of the end; labels: int64
    (N,); costs: float64 (K + 1,), the share of the block FLOPs that each answer takes."""

    logits: Array
    labels: Array
    costs: Array

    def scores(self) -> Dict[str, float]:
        """`val_loss`, `val_accuracy` and `val_share` of the last answer."""
        last = self.logits[:, -1].astype(np.float64)
        last -= last.max(axis=1, keepdims=True)
        own = last[np.arange(len(last)), self.labels]
        return {
            "val_loss": float((np.log(np.exp(last).sum(axis=1)) - own).mean()),
            "val_accuracy": float((last.argmax(axis=1) == self.labels).mean()),
            "val_share": float(self.costs[-1]),
        }

    def file(self) -> bytes:
        """As `validation.npz` has it: `logits`, `labels` and `cost`."""
        data = io.BytesIO()
        np.savez(data, logits=self.logits, labels=self.labels, cost=self.costs)
        return data.getvalue()

    def calibrated(self, keep: float) -> Optional[Calibrated]:
        """Where photos leave so that `keep` of the block FLOPs run on average. None where nobody is to leave."""
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
