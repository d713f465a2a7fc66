"""The chapter of one evaluation."""

from __future__ import annotations

from da3.toolchain.report import answers
from da3.toolchain.report.document import Chapter, Facts, Section
from da3.toolchain.report.judged import Judged
from da3.toolchain.report.thumbnails import Thumbnails
from da3.toolchain.report.words import count, plain


def evaluation_chapter(judged: Judged, title: str, thumbnails: Thumbnails, most: int) -> Chapter:
    """``title``: what to call the evaluation. ``most``: photos of each kind that are shown."""
    sections = [
        Section("Summary", answers.headline(judged)),
        answers.right_and_wrong(judged),
        answers.confidence(judged),
        answers.cost(judged),
        answers.exits_and_blocks(judged),
        answers.photos(judged, thumbnails, most),
        Section("Settings and versions", tuple(facts(name, told) for name, told in judged.facts)),
    ]
    evaluation = judged.evaluation
    how = (evaluation.arch, evaluation.settings.backend, evaluation.settings.precision or "engines built last")
    about = ", ".join((count(len(evaluation.answered), "photo"), *how))
    return Chapter(f"Evaluation of {title}", about, tuple(s for s in sections if s is not None))


def facts(title: str, told: dict[str, object]) -> Facts:
    """Values of JSON, told by their names; what nobody knows is left out."""
    shown = [(name.replace("_", " "), plain(value)) for name, value in told.items() if value is not None]
    return Facts(title, tuple(shown))
