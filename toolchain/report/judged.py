"""Answers to labelled photos as a report looks at them, whoever gave them: an engine that was evaluated, or a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from da3.runtime.evaluation import Evaluation, Scores


@dataclass(frozen=True)
class Timing:
    """What answering took, as `da3 evaluate` wrote it. batch_ms: percentiles by name, of a batch's run, engine alone.

    photo_ms: a photo's mean share of that. beside_decoding: whether photos were decoded while the engine was timed.
    """

    batch_ms: dict[str, float]
    batch_size: int
    photo_ms: float
    images_per_second: float
    engine_images_per_second: float
    beside_decoding: bool


@dataclass(frozen=True)
class Unknown:
    """So many of the domain's own ``photos`` are said to be unknown, ``correct`` of them with right answers; ``limit``
    is the share of them that is taken for granted. ``foreign``: how many pictures that are none of the domain's were
    asked about, how many of them pass for known, and the area under the curve."""

    limit: float
    photos: int
    correct: int
    foreign: tuple[int, int, float] | None = None


@dataclass(frozen=True)
class Judged:
    """``evaluation.answered`` has each photo by its path from ``folder``, where photos were when they were answered
    (None where nobody knows); ``nbytes`` their sizes then. Without ``timing`` the rows' engine_s mean nothing.
    ``facts``: settings and versions to be listed. ``unknown``: None for a domain that cannot tell."""

    evaluation: Evaluation
    scores: Scores
    folder: str | None
    nbytes: tuple[int | None, ...]
    timing: Timing | None = None
    facts: tuple[tuple[str, dict[str, Any]], ...] = ()
    unknown: Unknown | None = None

    @property
    def name(self) -> str:
        """Of the domain."""
        return self.evaluation.domain.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.evaluation.domain.classes

    @property
    def has_exits(self) -> bool:
        """Whether photos may leave before the end."""
        return any(rule.threshold is not None for rule in self.evaluation.domain.exits)
