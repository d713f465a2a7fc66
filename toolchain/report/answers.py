"""What there is to say of answers to labelled photos: right and wrong, confidence, cost, exits, and the photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from da3.runtime.calibration import BINS
from da3.runtime.evaluation import Answered
from da3.runtime.records import Array
from da3.toolchain.report import figures
from da3.toolchain.report.document import (
    Card,
    Cards,
    Cell,
    Folded,
    Gallery,
    Part,
    Picture,
    Pictures,
    Row,
    Section,
    Table,
    Thumbnail,
    Words,
)
from da3.toolchain.report.judged import Judged
from da3.toolchain.report.thumbnails import Thumbnails
from da3.toolchain.report.words import (
    NONE,
    count,
    listed,
    milliseconds,
    number,
    percent,
    points,
    where_left,
)

MATRIX_CLASSES = 30  # of a confusion matrix that is a table; a larger one is a figure
ROWS = 200  # of a table by class
MISTAKES = 12  # of the commonest
_EVEN = 0.02  # a difference between confidence and accuracy that is none
_STEPS = 1000  # of the curve of the surest photos
_FEW = 100  # photos, below which figures jump


def headline(judged: Judged) -> tuple[Words, Cards]:
    """The summary: sentences, and the figures that matter."""
    scores = judged.scores
    low, high = scores.interval
    said = [
        f"{scores.correct:,} of {count(scores.photos, 'photo')} are named right: {percent(scores.top1)}. On other "
        f"photos like these expect {percent(low)} to {percent(high)} (95\u00a0% confidence interval)."
    ]
    said += [text for text in (_weakest(judged), _early(judged), _trust(judged), _strange(judged)) if text]
    if judged.evaluation.unreadable:
        said.append(f"{count(len(judged.evaluation.unreadable), 'photo')} could not be read and had no part in this.")
    if scores.photos < _FEW:
        said.append(f"{count(scores.photos, 'photo')} are few: expect other figures of new ones.")
    cards = [Card("right", percent(scores.top1), f"{scores.correct:,} of {scores.photos:,}")]
    if len(judged.classes) > 5:
        cards.append(Card("right among the first five", percent(scores.top5)))
    cards += [
        Card("macro F1", number(scores.macro_f1), "mean over classes"),
        Card("block FLOPs run", percent(scores.flops_share), "of all blocks, on average"),
        Card("calibration error", percent(scores.calibration_error), f"{BINS} bins"),
    ]
    if judged.timing is not None:
        batch = f"batches of {judged.timing.batch_size}" if judged.timing.batch_size > 1 else "a photo"
        cards += [
            Card("latency, median", milliseconds(judged.timing.batch_ms["p50"]), f"{batch}, engine alone"),
            Card("photos a second", f"{judged.timing.images_per_second:,.1f}", "decoding included"),
        ]
    return Words(tuple(said)), Cards(tuple(cards))


def _weakest(judged: Judged) -> str:
    asked = [one for one in judged.scores.classes if one.recall is not None]
    if judged.scores.correct == judged.scores.photos:
        return "There is no mistake among them."
    worst = min(asked, key=lambda one: (one.recall or 0.0, -one.photos))
    found, label, answer = commonest_mistakes(judged)[0]
    return (
        f"The weakest class is “{worst.name}”, of whose {count(worst.photos, 'photo')} {percent(worst.recall)} are "
        f"named right. The commonest mistake: {count(found, 'photo')} of “{label}” taken for “{answer}”."
    )


def _early(judged: Judged) -> str:
    scores = judged.scores
    if judged.evaluation.settings.force_all_blocks:
        return "Every block was made to run for every photo."
    if not judged.has_exits:
        closed = len(judged.evaluation.domain.closed)
        shut = f"; {count(closed, 'block')} {'is' if closed == 1 else 'are'} closed for all of them" if closed else ""
        return f"No photo leaves early: {percent(scores.flops_share)} of the block FLOPs run{shut}."
    early = 1 - scores.exits[-1].photos / scores.photos
    share = percent(scores.flops_share)
    return f"{percent(early)} of the photos leave at an exit; {share} of the block FLOPs run on average."


def _trust(judged: Judged) -> str:
    gap = judged.scores.confidence - judged.scores.top1
    if abs(gap) < _EVEN:
        return f"It is as sure as it is right: {percent(judged.scores.confidence)} sure on average."
    more = "surer than it is right" if gap > 0 else "less sure than it could be"
    return f"It is {more}: {percent(judged.scores.confidence)} sure on average, {points(gap)} from its accuracy."


def _strange(judged: Judged) -> str:
    found = judged.unknown
    if found is None:
        return ""
    share = percent(found.photos / judged.scores.photos)
    said = (
        f"{share} of the photos are said to be unknown, where {percent(found.limit)} are expected of the domain's own; "
        f"{found.correct:,} of these {found.photos:,} answers are right."
    )
    if found.foreign is None:
        return said
    asked, known, area = found.foreign
    return (
        f"{said} Of {count(asked, 'picture')} that are none of the domain's {percent(1 - known / asked)} are said to "
        f"be unknown (area under the curve {area:.3f})."
    )


def commonest_mistakes(judged: Judged) -> list[tuple[int, str, str]]:
    """(photos, label, answer), the most photos first."""
    wrong = judged.scores.confusion.copy()
    np.fill_diagonal(wrong, 0)
    labels, answers = np.nonzero(wrong)
    order = np.argsort(-wrong[labels, answers], kind="stable")
    names = judged.classes
    return [(int(wrong[labels[i], answers[i]]), names[labels[i]], names[answers[i]]) for i in order]


def right_and_wrong(judged: Judged) -> Section:
    """Figures by class, and what is taken for what."""
    parts: list[Part] = [_by_class(judged), _confusion(judged)]
    mistakes = commonest_mistakes(judged)
    if mistakes and len(judged.classes) > 4:
        rows = [(label, answer, f"{found:,}") for found, label, answer in mistakes[:MISTAKES]]
        parts.append(Table.of("Commonest mistakes", ("label", "taken for", "photos"), rows, left=(0, 1)))
    return Section("Right and wrong", tuple(parts))


def _by_class(judged: Judged) -> Table:
    timed, exits = judged.timing is not None, judged.has_exits
    head = ["class", "photos", "precision", "recall", "F1", "FLOPs run"]
    head += (["ms"] if timed else []) + (["left early"] if exits else [])
    rows = []
    classes = sorted(judged.scores.classes, key=lambda one: -one.photos)[:ROWS]
    kept = {one.name for one in classes}
    for one in (one for one in judged.scores.classes if one.name in kept):
        row: list[Cell | str] = [
            one.name,
            f"{one.photos:,}",
            percent(one.precision),
            Cell(percent(one.recall), None if one.recall is None else 1 - one.recall, alarm=True),
            number(one.f1),
            percent(one.flops_share),
        ]
        if timed:
            row.append(number(one.latency_ms, ".2f"))
        if exits:
            row.append(percent(sum(one.exits[:-1]) / one.photos) if one.photos else NONE)
        rows.append(row)
    return Table.of(
        "By class",
        head,
        rows,
        note=_cut(len(judged.classes), "The stronger the shade of a recall, the more is missed."),
    )


def _cut(classes: int, note: str = "") -> str:
    cut = f"The {ROWS} classes with the most photos, of {classes:,}." if classes > ROWS else ""
    return " ".join(text for text in (note, cut) if text)


def _confusion(judged: Judged) -> Part:
    counts, names = judged.scores.confusion, judged.classes
    if len(names) > MATRIX_CLASSES:
        return Picture(
            "Confusion matrix",
            f"{percent(judged.scores.top1)} of the photos lie on the diagonal, where label and answer are the same. "
            f"Of the others the commonest are listed below.",
            figures.matrix(counts),
        )
    rows: list[Row] = []
    for label, line in enumerate(counts.tolist()):
        total = sum(line)
        rows.append([names[label], *(_counted(n, total, label != answer) for answer, n in enumerate(line))])
    return Table.of(
        "Confusion matrix",
        ("label ↓ answer →", *names),
        rows,
        heat=True,
        note="Photos of each label by their answer. Right answers lie on the diagonal; the others are mistakes, and "
        "have an outline. The stronger the shade, the larger the share of the label's photos.",
    )


def _counted(found: int, total: int, wrong: bool) -> Cell:
    return Cell(f"{found}", found / total, alarm=wrong) if found else Cell("·")


def confidence(judged: Judged) -> Section:
    """How far probabilities can be trusted."""
    return Section("How far confidence can be trusted", (confidence_pictures([("", judged)]),))


def confidence_pictures(those: Sequence[tuple[str, Judged]]) -> Pictures:
    """The reliability diagram and accuracy among the surest photos, of one or of several with their names."""
    ranked = [(name, *_surest(judged)) for name, judged in those]
    return Pictures(
        (
            Picture(
                "Reliability",
                " ".join(_reliability_finding(name, judged) for name, judged in those),
                figures.reliability([(name, judged.scores.bins) for name, judged in those]),
                _bins(those),
            ),
            Picture(
                "If only the surest are answered",
                " ".join(_surest_finding(name, shares, right) for name, shares, right in ranked),
                figures.surest(ranked),
                _surest_numbers(ranked),
            ),
        )
    )


def _reliability_finding(name: str, judged: Judged) -> str:
    seen = [one for one in judged.scores.bins if one.photos and one.accuracy is not None and one.confidence is not None]
    worst = max(seen, key=lambda one: one.photos * abs((one.accuracy or 0) - (one.confidence or 0)))
    of = f"{name}: " if name else ""
    error = percent(judged.scores.calibration_error)
    return (
        f"{of}Confidence and accuracy are {error} apart, bin by bin. The bin from {percent(worst.low, 0)} to "
        f"{percent(worst.high, 0)} has the largest part in that: {count(worst.photos, 'photo')}, "
        f"{percent(worst.accuracy)} right."
    )


def _bins(those: Sequence[tuple[str, Judged]]) -> Table:
    several = len(those) > 1
    rows = [
        [
            *([name] if several else []),
            f"{percent(one.low, 0)} to {percent(one.high, 0)}",
            f"{one.photos:,}",
            percent(one.confidence),
            percent(one.accuracy),
        ]
        for name, judged in those
        for one in judged.scores.bins
        if one.photos
    ]
    head = [*(["evaluation"] if several else []), "confidence", "photos", "mean confidence", "right"]
    return Table.of("Photos by confidence", head, rows, left=(0, 1) if several else (0,))


def _surest(judged: Judged) -> tuple[Array, Array]:
    """Shares of the photos, ascending, and the accuracy among so many of the surest; of equally sure ones all."""
    rows = judged.evaluation.answered
    sure = np.array([row.probability for row in rows])
    right = np.array([row.correct for row in rows], np.float64)
    order = np.argsort(-sure, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(sure[order])), len(rows) - 1)
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, _STEPS).astype(np.int64))]
    counts = ends + 1
    return counts / len(rows), np.cumsum(right[order])[ends] / counts


def _at(shares: Array, accuracies: Array, share: float) -> float:
    return float(accuracies[min(int(np.searchsorted(shares, share - 1e-9)), len(shares) - 1)])


def _surest_finding(name: str, shares: Array, accuracies: Array) -> str:
    of = f"{name}: " if name else ""
    half, whole = _at(shares, accuracies, 0.5), float(accuracies[-1])
    return f"{of}Of the surest half {percent(half)} are right, of all {percent(whole)}."


def _surest_numbers(ranked: Sequence[tuple[str, Array, Array]]) -> Table:
    steps = (0.25, 0.5, 0.75, 0.9, 1.0)
    rows = [
        [f"{percent(step, 0)}", *(percent(_at(shares, accuracies, step)) for _, shares, accuracies in ranked)]
        for step in steps
    ]
    names = [name or "right" for name, _, _ in ranked]
    return Table.of("Right among the surest", ["the surest", *names], rows)


def cost(judged: Judged) -> Section:
    """Accuracy against FLOPs and latency, by where photos left."""
    pictures = list(cost_pictures([("all photos", judged)], exits_of=judged))
    if judged.timing is not None:
        pictures.append(_latencies(judged))
    parts: list[Part] = [Pictures(tuple(pictures)), exits_table(judged)]
    if judged.timing is not None:
        parts.append(_latency_table(judged))
    return Section("What answers cost", tuple(parts))


def cost_pictures(those: Sequence[tuple[str, Judged]], exits_of: Judged | None = None) -> list[Picture]:
    """Accuracy against FLOPs, and against milliseconds where all are timed. ``exits_of``: whose exits are drawn too."""
    spots: list[tuple[str, Judged, Array]] = []
    for name, judged in those:
        spots.append((name, judged, np.ones(len(judged.evaluation.answered), bool)))
    if exits_of is not None and exits_of.has_exits:
        left = _left(exits_of)
        for i, one in enumerate(exits_of.scores.exits):
            if one.photos:
                spots.append((f"left at {where_left(one.exit)}", exits_of, left == i))
    found = [
        _cost_picture(
            "Accuracy against FLOPs",
            spots,
            len(those),
            lambda row: 100 * row.flops_share,
            "block FLOPs run, %",
            "% of the block FLOPs",
        )
    ]
    if all(judged.timing is not None for _, judged in those):
        found.append(
            _cost_picture(
                "Accuracy against latency", spots, len(those), lambda row: 1e3 * row.engine_s, "mean ms a photo", "ms"
            )
        )
    return found


def _cost_picture(
    title: str,
    spots: Sequence[tuple[str, Judged, Array]],
    whole: int,
    of: Callable[[Answered], float],
    x: str,
    unit: str,
) -> Picture:
    """unit: that of ``x``, in a sentence."""
    drawn, rows = [], []
    for i, (name, judged, chosen) in enumerate(spots):
        picked = [row for row, taken in zip(judged.evaluation.answered, chosen, strict=True) if taken]
        right = sum(row.correct for row in picked) / len(picked)
        where = float(np.mean([of(row) for row in picked]))
        low, high = judged.scores.interval if i < whole else (None, None)
        drawn.append(figures.Spot(name, where, right, low, high, large=i < whole))
        rows.append((name, f"{len(picked):,}", f"{where:.2f}", percent(right)))
    told = [f"{spot.name}: {percent(spot.y)} right at {spot.x:.3g} {unit}" for spot in drawn]
    finding = "; ".join(told[:whole]) + "."
    if len(drawn) > whole:
        finding += f" Photos that {told[whole]}."
    return Picture(
        title, finding, figures.trade((), drawn, x), Table.of(title, ("photos that", "photos", x, "right"), rows)
    )


def _left(judged: Judged) -> Array:
    """int64 (N,): the number of the exit where each photo left, and how many exits there are for the end."""
    ends = len(judged.evaluation.domain.exits)
    return np.array([ends if row.exit is None else row.exit for row in judged.evaluation.answered], np.int64)


def _latencies(judged: Judged) -> Picture:
    left, rows = _left(judged), judged.evaluation.answered
    ms = np.array([1e3 * row.engine_s for row in rows])
    names = [f"{where_left(one.exit)} ({one.photos:,})" for one in judged.scores.exits]
    groups = [ms[left == i] for i in range(len(names))]
    medians = [float(np.median(group)) if len(group) else None for group in groups]
    told = [
        f"{where_left(one.exit)} {milliseconds(m)}" for one, m in zip(judged.scores.exits, medians, strict=True) if m
    ]
    numbers = Table.of(
        "Milliseconds a photo, by where it left",
        ("left at", "photos", "p5", "p25", "median", "p75", "p95"),
        [
            (name, f"{len(group):,}", *(f"{p:.2f}" for p in np.percentile(group, (5, 25, 50, 75, 95))))
            for name, group in zip(names, groups, strict=True)
            if len(group)
        ],
    )
    return Picture(
        "Latency by exit",
        f"Medians: {', '.join(told)}.",
        figures.by_group(names, groups, "ms a photo, engine alone"),
        numbers,
    )


def exits_table(judged: Judged) -> Table:
    """Who leaves where, how right those are, and what they cost."""
    rules = judged.evaluation.domain.exits
    rows = []
    for one in judged.scores.exits:
        rule = None if one.exit is None else rules[one.exit]
        above = NONE if rule is None else "nobody leaves" if rule.threshold is None else f"{rule.threshold:.4f}"
        share = one.photos / judged.scores.photos
        rows.append(
            (
                where_left(one.exit),
                above,
                f"{one.photos:,}",
                Cell(percent(share), share),
                percent(one.accuracy),
                percent(one.flops_share),
            )
        )
    return Table.of(
        "Where photos leave",
        ("left at", "when surer than", "photos", "share", "right", "FLOPs run"),
        rows,
        note="The easy photos leave first: what runs to the end is what is hard, so fewer of those are right."
        if _falling(judged)
        else "",
    )


def _falling(judged: Judged) -> bool:
    """Whether what runs to the end is answered worse than what leaves first, as it should be."""
    asked = [one.accuracy for one in judged.scores.exits if one.accuracy is not None]
    return judged.has_exits and len(asked) > 1 and asked[-1] < asked[0]


def _latency_table(judged: Judged) -> Part:
    assert judged.timing is not None
    timing = judged.timing
    beside = "photos were decoded beside it" if timing.beside_decoding else "nothing ran beside it"
    rows = [(name, milliseconds(timing.batch_ms[name])) for name in ("p50", "p90", "p99")]
    rows += [
        ("mean a photo", milliseconds(timing.photo_ms)),
        ("photos a second, engine alone", f"{timing.engine_images_per_second:,.1f}"),
        ("photos a second, decoding included", f"{timing.images_per_second:,.1f}"),
    ]
    return Folded(
        "Latency and throughput",
        Table.of(f"Batches of {timing.batch_size}; {beside}", ("", "measured"), rows),
    )


def exits_and_blocks(judged: Judged) -> Section | None:
    """Which classes leave where, and which blocks run for them; None where all photos take the same way."""
    asked = [one for one in judged.scores.classes if one.photos]
    asked = sorted(sorted(asked, key=lambda one: -one.photos)[:ROWS], key=lambda one: judged.classes.index(one.name))
    parts: list[Part] = []
    if judged.has_exits:
        hardest = min(asked, key=lambda one: (sum(one.exits[:-1]) / one.photos, one.name))
        easiest = max(asked, key=lambda one: (sum(one.exits[:-1]) / one.photos, one.name))
        early = {one.name: percent(sum(one.exits[:-1]) / one.photos, 0) for one in (hardest, easiest)}
        parts.append(
            Words(
                (
                    f"Of “{easiest.name}” {early[easiest.name]} of the photos leave early, of “{hardest.name}” "
                    f"{early[hardest.name]}.",
                )
            )
        )
        ends = [where_left(one.exit) for one in judged.scores.exits]
        leaving: list[Row] = [[one.name, *(_shaded(n / one.photos) for n in one.exits)] for one in asked]
        parts.append(
            Table.of(
                "Exits by class",
                ("class", *ends),
                leaving,
                heat=True,
                note=_cut(
                    len(judged.classes),
                    "Percent of a class's photos that leave there. The stronger the shade, the more.",
                ),
            )
        )
    names = judged.evaluation.block_names
    if names and any(one.blocks for one in asked) and (judged.has_exits or judged.evaluation.domain.closed):
        running: list[Row] = [[one.name, *(_shaded(share) for share in one.blocks)] for one in asked if one.blocks]
        closed = judged.evaluation.domain.closed
        shut = f" Closed for the whole domain: {listed([str(block) for block in closed], 12)}." if closed else ""
        parts.append(
            Table.of(
                "Blocks by class",
                ("class", *(str(i) for i in range(len(names)))),
                running,
                heat=True,
                note=_cut(
                    len(judged.classes),
                    f"Percent of a class's photos for which each block runs, by the number of the block.{shut}",
                ),
            )
        )
    return Section("Exits and blocks by class", tuple(parts)) if parts else None


def _shaded(share: float) -> Cell:
    share = min(1.0, max(0.0, float(share)))
    return Cell(f"{100 * share:.0f}" if share else "·", share or None)


def photos(judged: Judged, thumbnails: Thumbnails, most: int, note: str = "") -> Section:
    """The worst mistakes, and the answers of which the domain is least and most sure. most: photos of each kind."""
    rows = judged.evaluation.answered
    by_sure = sorted(range(len(rows)), key=lambda i: (-rows[i].probability, rows[i].path))
    wrong = sorted(
        (i for i in by_sure if not rows[i].correct),
        key=lambda i: (rows[i].label_probability - rows[i].probability, rows[i].path),
    )
    kinds = (
        ("Worst mistakes", "Wrong, and surest of it. Look at their labels first: some may be wrong themselves.", wrong),
        ("Least certain", "What to label next: photos like these teach a domain most.", by_sure[::-1]),
        ("Most certain", "What the domain takes for typical.", by_sure),
    )
    parts: list[Part] = []
    for title, why, chosen in kinds:
        if chosen and most:
            shown = tuple(thumbnail(judged, rows[i], thumbnails) for i in chosen[:most])
            parts.append(Gallery(title, why, shown))
    if note:
        parts.insert(0, Words((note,)))
    if thumbnails.missing:
        parts.insert(
            0,
            Words(
                (
                    f"{count(thumbnails.missing, 'photo')} cannot be shown ({thumbnails.reason}). Name the "
                    f"folder that they are in with --photos.",
                )
            ),
        )
    unreadable = judged.evaluation.unreadable
    if unreadable:
        listed_rows = [(path, error) for path, error in unreadable[:ROWS]]
        parts.append(
            Folded("Photos that could not be read", Table.of("Unreadable", ("photo", "why"), listed_rows, left=(0, 1)))
        )
    if not parts:
        parts.append(Words(("No photos were asked for.",)))
    return Section("Photos", tuple(parts))


def thumbnail(judged: Judged, row: Answered, thumbnails: Thumbnails, more: str = "") -> Thumbnail:
    """A photo with its answer. more: another line."""
    label, answer = judged.classes[row.label], judged.classes[row.answer]
    made = thumbnails.make(row.path)
    data, width, height = made if made is not None else (None, 120, 90)
    title = f"{answer} {percent(row.probability)}"
    truth = "right" if row.correct else f"label: {label} ({percent(row.label_probability)})"
    where = f"left at {where_left(row.exit)}" if judged.has_exits else ""
    lines = tuple(line for line in (truth, where, more, row.path) if line)
    said = "rightly named" if row.correct else f"a photo of {label}, wrongly named"
    return Thumbnail(data, width, height, f"{said} {answer}", title, lines, row.correct)
