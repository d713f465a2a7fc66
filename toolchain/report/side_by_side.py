"""Several evaluations, or several runs, beside each other: what is better, and whether that may be luck."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from da3.runtime.errors import DataError
from da3.runtime.evaluation import Comparison, Verdict, compare
from da3.toolchain.report import answers, figures
from da3.toolchain.report.document import Chapter, Gallery, Part, Picture, Pictures, Section, Table, Words
from da3.toolchain.report.judged import Judged
from da3.toolchain.report.run_chapter import run_figures
from da3.toolchain.report.run_folder import RunFacts
from da3.toolchain.report.thumbnails import Thumbnails
from da3.toolchain.report.words import NONE, count, milliseconds, number, percent, plain, points
from da3.toolchain.runs import differences

_LUCK = 0.05  # a p from which on a difference is called no more than that
_SETTINGS = ("bundle", "backend", "precision", "batch_size", "force_all_blocks")

Named = Sequence[tuple[str, Judged]]


def evaluations_chapter(those: Named, thumbnails: Sequence[Thumbnails], most: int) -> Chapter:
    """``those``: two or more, with what to call them; the first is what the others are compared with. ``thumbnails``:
    of each."""
    first = those[0][1]
    compared = [(name, other, _compared(first, other)) for name, other in those[1:]]
    sections = [
        Section("Figures side by side", (Words(_verdicts(those[0][0], compared)), _figures(those), *_settings(those))),
        Section("By class, side by side", tuple(_by_class(those))),
        Section("Confidence, side by side", (answers.confidence_pictures(those),)),
        Section("Accuracy against cost, side by side", (Pictures(tuple(answers.cost_pictures(those))),)),
    ]
    changed = _changed(those, compared, thumbnails[0], most)
    if changed:
        sections.append(Section("Photos whose answers differ", tuple(changed)))
    return Chapter(
        "Side by side", f"{count(len(those), 'evaluation')}, the first compared with each other", tuple(sections)
    )


def _compared(first: Judged, second: Judged) -> Comparison | str:
    """The paired test, or why there is none."""
    try:
        return compare(_verdicts_of(first), _verdicts_of(second))
    except DataError as error:
        return str(error)


def _verdicts_of(judged: Judged) -> dict[str, Verdict]:
    rows = zip(judged.evaluation.answered, judged.nbytes, strict=True)
    return {row.path: Verdict(judged.classes[row.label], judged.classes[row.answer], size) for row, size in rows}


def _verdicts(first: str, compared: Sequence[tuple[str, Judged, Comparison | str]]) -> tuple[str, ...]:
    said = []
    for name, _, found in compared:
        if isinstance(found, str):
            said.append(f"{first} and {name} cannot be paired photo by photo: {found}.")
            continue
        p = f"{found.p:.3f}" if found.p >= 0.001 else f"{found.p:.1e}"
        if found.only_first == found.only_second == 0:
            said.append(f"{first} and {name} have the same {found.photos:,} photos right.")
            continue
        luck = "is hardly luck" if found.p < _LUCK else "may be luck"
        said.append(
            f"{first} is {points(abs(found.difference))[1:]} {'above' if found.difference > 0 else 'below'} {name} "
            f"(standard error {100 * found.standard_error:.1f}) on the {count(found.photos, 'photo')} that both "
            f"answered, which {luck}: only the first has {found.only_first:,} right, only the second "
            f"{found.only_second:,} (McNemar's exact test: p = {p}). "
            f"{percent(found.same_answer / found.photos)} have the same answer."
        )
    return tuple(said)


def _figures(those: Named) -> Table:
    lines: list[tuple[str, Callable[[Judged], float | None], Callable[[float | None], str], bool]] = [
        ("photos", lambda j: float(j.scores.photos), lambda v: f"{v:,.0f}", True),
        ("right", lambda j: j.scores.top1, percent, True),
        ("right among the first five", lambda j: j.scores.top5 if len(j.classes) > 5 else None, percent, True),
        ("balanced accuracy", lambda j: j.scores.balanced_accuracy, percent, True),
        ("macro F1", lambda j: j.scores.macro_f1, number, True),
        ("calibration error", lambda j: j.scores.calibration_error, percent, False),
        ("block FLOPs run", lambda j: j.scores.flops_share, percent, False),
        ("latency, median", lambda j: None if j.timing is None else j.timing.batch_ms["p50"], milliseconds, False),
        ("latency, p99", lambda j: None if j.timing is None else j.timing.batch_ms["p99"], milliseconds, False),
        (
            "photos a second",
            lambda j: None if j.timing is None else j.timing.images_per_second,
            lambda v: number(v, ",.1f"),
            True,
        ),
    ]
    rows = []
    for name, of, form, most_is_best in lines:
        values = [of(judged) for _, judged in those]
        known = [value for value in values if value is not None]
        if not known:
            continue
        best = max(known) if most_is_best else min(known)
        told = len(known) == len(values) and min(known) < max(known) and name != "photos"
        rows.append([name, *(f"{form(v)} ★" if told and v == best else form(v) for v in values)])
    return Table.of(
        "Figures", ("", *(name for name, _ in those)), rows, note="★ marks the best of a row; luck has a part in it."
    )


def _settings(those: Named) -> list[Part]:
    """What was asked otherwise of one than of another."""
    rows = []
    for key in _SETTINGS:
        values = [getattr(judged.evaluation.settings, key) for _, judged in those]
        if any(value != values[0] for value in values):
            rows.append([key.replace("_", " "), *(plain(value) for value in values)])
    sources = [judged.evaluation.photos.source for _, judged in those]
    if any(source != sources[0] for source in sources):
        rows.append(["photos", *sources])
    names = range(len(those) + 1)
    return (
        [Table.of("Settings that differ", ("", *(name for name, _ in those)), rows, left=tuple(names))] if rows else []
    )


def _by_class(those: Named) -> list[Part]:
    classes = those[0][1].classes
    rows = []
    for one in classes[: answers.ROWS]:
        recalls = []
        for _, judged in those:
            found = [score.recall for score in judged.scores.classes if score.name == one]
            recalls.append(found[0] if found else None)
        row = [one, *(percent(recall) for recall in recalls)]
        if len(those) == 2:
            both = None not in recalls
            row.append(points((recalls[0] or 0.0) - (recalls[1] or 0.0)) if both else NONE)
        rows.append(row)
    head = ["class", *(name for name, _ in those)] + (["difference"] if len(those) == 2 else [])
    return [Table.of("Recall by class", head, rows)]


def _changed(
    those: Named, compared: Sequence[tuple[str, Judged, Comparison | str]], thumbnails: Thumbnails, most: int
) -> list[Part]:
    """Photos that only one of the first and another has right."""
    first_name, first = those[0]
    parts: list[Part] = []
    for name, other, found in compared:
        if isinstance(found, str) or not most:
            continue
        theirs = {row.path: (row, size) for row, size in zip(other.evaluation.answered, other.nbytes, strict=True)}
        for title, first_right in (
            (f"Right in {first_name}, wrong in {name}", True),
            (f"Wrong in {first_name}, right in {name}", False),
        ):
            shown = []
            for row, size in zip(first.evaluation.answered, first.nbytes, strict=True):
                twin, bytes_there = theirs.get(row.path, (None, None))
                same_file = None in (size, bytes_there) or size == bytes_there
                if twin is None or not same_file or row.correct is not first_right or twin.correct is first_right:
                    continue
                more = f"{name}: {other.classes[twin.answer]} {percent(twin.probability)}"
                shown.append(answers.thumbnail(first, row, thumbnails, more))
            if shown:
                parts.append(
                    Gallery(
                        title, f"{count(len(shown), 'photo')}, of which up to {most} are shown.", tuple(shown[:most])
                    )
                )
    return parts


def runs_chapter(runs: Sequence[tuple[str, RunFacts]]) -> Chapter:
    """Two runs or more: what was reached, what differs, and their curves in one picture."""
    names = [name for name, _ in runs]
    found = [facts.run for _, facts in runs]
    lines: list[tuple[str, list[Any]]] = [
        ("right, every block", [percent(run.accuracy) for run in found]),
        ("right, with exits", [percent(run.kept_accuracy) for run in found]),
        ("block FLOPs run", [percent(run.flops_share) for run in found]),
        ("epochs", [f"{run.progress.epoch} of {run.config.epochs}" for run in found]),
        *run_figures(found),
    ]
    differing = [(name, *(_cut(plain(v)) for v in values)) for name, values in differences(found).items()]
    left = tuple(range(len(runs) + 1))
    parts: list[Part] = [Table.of("What was reached", ("", *names), [(name, *values) for name, values in lines])]
    if differing:
        parts.append(Table.of("Settings that differ", ("", *names), differing, left=left))
    else:
        parts.append(Words(("No setting differs.",)))
    curves = [
        figures.Line(name, [row["epoch"] for row in seen], [100 * row["val_accuracy"] for row in seen])
        for name, facts in runs
        if (seen := [row for row in facts.history if "val_accuracy" in row])
    ]
    if any(len(curve.xs) > 1 for curve in curves):
        last = "; ".join(f"{curve.name}: {curve.ys[-1]:.1f} % after {curve.xs[-1]:.0f} epochs" for curve in curves)
        parts.append(
            Picture("Accuracy on the validation photos", f"{last}.", figures.lines(curves, "epoch", "right, %"))
        )
    return Chapter("Runs side by side", count(len(runs), "run"), (Section("Runs compared", tuple(parts)),))


def _cut(text: str) -> str:
    """Hashes are cut: their beginnings tell them apart."""
    return f"{text[:12]}…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
