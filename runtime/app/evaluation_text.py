"""What `evaluate` prints: scores, a line for each class, the confusion matrix, and two evaluations side by side."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

from ..errors import printable
from ..evaluation import Comparison, Evaluation, Scores
from ..evaluation.scores import TOP

_MATRIX_CLASSES = 12  # a wider matrix breaks lines; the commonest confusions are listed instead
_CONFUSIONS = 10
_UNLIKELY = 0.05  # a p below which a difference is called more than luck


def render(evaluation: Evaluation, found: Scores) -> str:
    """One evaluation, for people."""
    domain, settings = evaluation.domain, evaluation.settings
    how = [settings.backend, settings.precision or "engines built last"]
    if settings.force_all_blocks:
        how.append("all blocks")
    lines = [
        "%s on %s: %d photos, %d classes; %s at %d px, %s"
        % (
            domain.name,
            printable(evaluation.photos.source),
            found.photos,
            len(domain.classes),
            printable(evaluation.arch),
            domain.size,
            ", ".join(how),
        ),
        "",
        "top-1 %.1f %% (%d of %d; 95 %% confidence interval %.1f to %.1f)%s"
        % (
            100 * found.top1,
            found.correct,
            found.photos,
            100 * found.interval[0],
            100 * found.interval[1],
            ", top-5 %.1f %%" % (100 * found.top5) if len(domain.classes) > TOP else "",
        ),
        "balanced accuracy %.1f %%, macro F1 %.3f" % (100 * found.balanced_accuracy, found.macro_f1),
        "confidence %.1f %% on average, calibration error %.1f %%"
        % (100 * found.confidence, 100 * found.calibration_error),
        "block FLOPs run: %.1f %%%s" % (100 * found.flops_share, _exits(found)),
        *_unknown(evaluation, found),
        "latency per batch of %d: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms (engine only, %s)"
        % (
            settings.batch_size,
            found.latency_ms["p50"],
            found.latency_ms["p90"],
            found.latency_ms["p99"],
            "beside %d decoding threads" % settings.workers if settings.workers else "nothing beside it",
        ),
        "%.1f photos/s, decoding included; the engine alone %.1f" % (found.images_per_second, found.engine_per_second),
        "",
    ]
    lines += table(_class_rows(found), right=range(1, 8))
    lines.append("")
    lines += _confusion(found)
    return "\n".join(lines)


def render_comparison(
    comparison: Comparison, first: Dict[str, Any], second: Dict[str, Any], sides: Sequence[str]
) -> str:
    """Two evaluations side by side, as objects of their record, and what the test says."""
    rows = [["", *(printable(side) for side in sides)]]
    for name, path, form in _FIGURES:
        rows.append([name, *(_figure(one, path, form) for one in (first, second))])
    c = comparison
    lines = table(rows, right=(1, 2))
    lines += [
        "",
        "of the %d photos that both answered, %d only the first has right, %d only the second; "
        "%.1f %% have the same answer" % (c.photos, c.only_first, c.only_second, 100.0 * c.same_answer / c.photos),
        "the first is %+.1f points (standard error %.1f) from the second; McNemar's exact test: p = %s, %s"
        % (
            100 * c.difference,
            100 * c.standard_error,
            "%.3f" % c.p if c.p >= 0.001 else "%.1e" % c.p,
            "hardly luck" if c.p < _UNLIKELY else "which may be luck",
        ),
    ]
    return "\n".join(lines)


def titles(evaluations: Sequence[Dict[str, Any]], earlier: Optional[str] = None) -> Tuple[str, ...]:
    """What to call the sides of a comparison: by their domains, and by what differs where that is the same.
    earlier: the file that the second one is from."""
    found = [[str(one["domain"]["name"])] for one in evaluations]
    if earlier is not None:
        found[1].append("(%s)" % earlier)
        return tuple(" ".join(words) for words in found)
    if found[0] == found[1]:
        for words, one in zip(found, evaluations):
            settings, others = one["settings"], [other["settings"] for other in evaluations]
            for key in ("backend", "precision"):
                if others[0][key] != others[1][key]:
                    words.append(settings[key] or "engines built last")
            if others[0]["force_all_blocks"] != others[1]["force_all_blocks"]:
                words.append("all blocks" if settings["force_all_blocks"] else "with exits")
            if len({other["bundle"]["path"] for other in evaluations}) > 1:
                words.append(one["bundle"]["path"])
    return tuple(" ".join(words) for words in found)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> List[str]:
    """Lines of aligned columns. right: the numbers of those that are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _exits(found: Scores) -> str:
    if len(found.exits) == 1:
        return ""
    left = ", ".join("%d" % one.photos for one in found.exits[:-1])
    return "; left at the exits, in order: %s; ran to the end: %d" % (left, found.exits[-1].photos)


def _unknown(evaluation: Evaluation, found: Scores) -> List[str]:
    familiar, foreign = evaluation.domain.familiar, evaluation.foreign
    if familiar is None or found.unknown is None:
        return []
    lines = [
        "said to be unknown: %.1f %% (%d of %d, of which %d answers are right; %g %% expected)"
        % (
            100.0 * found.unknown / found.photos,
            found.unknown,
            found.photos,
            found.unknown_correct or 0,
            100 * familiar.limit,
        )
    ]
    if foreign is not None and found.area_under_curve is not None:
        count = len(foreign.familiarities)
        lines.append(
            "of the %d pictures in %s: %.1f %% said to be unknown, area under the curve %.3f"
            % (count, printable(foreign.source), 100.0 * (count - foreign.known) / count, found.area_under_curve)
        )
    return lines


def _class_rows(found: Scores) -> List[List[str]]:
    rows = [["class", "photos", "precision", "recall", "F1", "FLOPs run", "ms", "left early"]]
    for one in found.classes:
        early = sum(one.exits[:-1]) / float(one.photos) if one.photos else None
        rows.append(
            [
                printable(one.name),
                "%d" % one.photos,
                _percent(one.precision),
                _percent(one.recall),
                "-" if one.f1 is None else "%.3f" % one.f1,
                _percent(one.flops_share),
                "-" if one.latency_ms is None else "%.2f" % one.latency_ms,
                _percent(early),
            ]
        )
    return rows


def _confusion(found: Scores) -> List[str]:
    """The matrix, or of one with many classes the commonest mistakes."""
    names = [printable(one.name) for one in found.classes]
    if len(names) <= _MATRIX_CLASSES:
        rows = [["label \\ answer", *names]]
        rows += [[name, *("%d" % n for n in line)] for name, line in zip(names, found.confusion.tolist())]
        return table(rows, right=range(1, len(names) + 1))
    mistakes = [
        (count, names[label], names[answer])
        for label, line in enumerate(found.confusion.tolist())
        for answer, count in enumerate(line)
        if count and label != answer
    ]
    mistakes.sort(key=lambda mistake: -mistake[0])
    if not mistakes:
        return ["no mistakes"]
    rows = [["commonest mistakes", "label", "answer"]]
    rows += [["%d" % count, label, answer] for count, label, answer in mistakes[:_CONFUSIONS]]
    return table(rows)


_FIGURES = (
    ("top-1", ("scores", "top1"), "percent"),
    ("top-5", ("scores", "top5"), "percent"),
    ("macro F1", ("scores", "macro_f1"), "%.3f"),
    ("calibration error", ("scores", "calibration_error"), "percent"),
    ("block FLOPs run", ("scores", "flops_share"), "percent"),
    ("latency p50", ("timing", "batch_ms", "p50"), "%.2f ms"),
    ("latency p99", ("timing", "batch_ms", "p99"), "%.2f ms"),
    ("photos/s", ("timing", "images_per_second"), "%.1f"),
)


def _figure(one: Dict[str, Any], path: Sequence[str], form: str) -> str:
    """A number of a record as text; - where the record, which may be an earlier one, has none."""
    value: Any = one
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-"
    return _percent(float(value)) if form == "percent" else form % value


def _percent(share: Optional[float]) -> str:
    return "-" if share is None else "%.1f %%" % (100 * share)
