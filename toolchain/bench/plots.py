"""Pictures of what ``da3 bench`` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from da3.toolchain.bench.reports import AccuracyReport, AccuracyRow, EngineReport, OverallRow, TrainReport
from da3.toolchain.bench.tables import digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOG_FROM = 20  # times the smallest bar: on a linear axis a larger one would leave nothing to see of it


def draw_train(report: TrainReport) -> bytes:
    """PNG of three panels, a bar for each method: bytes kept per image, peak growth, time of a step with its IQR."""
    rows, conditions = report["rows"], report["conditions"]
    figure = _figure(13, 1.6 + 0.42 * max(len(rows), 2))
    kept, peak, step = figure.subplots(1, 3, sharey=True)
    names = [row["method"] for row in rows]
    _bars(kept, names, [None if (b := row["kept_bytes_per_image"]) is None else b / 1e6 for row in rows])
    kept.set_title("kept for the backward pass, MB per image", fontsize=10)
    _bars(peak, names, [row["peak_growth_bytes"] / 1e6 for row in rows])
    peak.set_title("peak growth of the process, MB", fontsize=10)
    spread = [_quartiles_from_median(row["step_seconds"]) for row in rows]
    _bars(step, names, [row["step_seconds_median"] for row in rows], spread)
    step.set_title("one step, seconds (median and IQR)", fontsize=10)
    figure.suptitle(
        f"{conditions['backbone']}, {conditions['size']} px, batch {conditions['batch']}, {conditions['device']}, "
        f"{conditions['threads']} CPU threads, {conditions['rounds']} x {conditions['steps']} steps",
        fontsize=10,
    )
    return _png(figure)


def _quartiles_from_median(seconds: list[float]) -> tuple[float, float]:
    """How far the lower quartile lies below the median, and the upper one above it."""
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return float(middle - low), float(high - middle)


def _bars(
    axis: Axes, names: list[str], values: Sequence[float | None], spread: list[tuple[float, float]] | None = None
) -> None:
    """Horizontal bars, the first on top, each with its value; a dash where it is None.

    ``spread``: how far a whisker reaches below and above each value.
    """
    places = range(len(names))
    below, above = zip(*(spread or [(0.0, 0.0)] * len(names)), strict=True)
    lengths = [value or 0.0 for value in values]
    axis.barh(
        places,
        lengths,
        color=[f"C{i % 10}" for i in places],
        xerr=(below, above) if spread else None,
        error_kw={"ecolor": "0.3", "capsize": 2},
    )
    axis.set_yticks(list(places), names)
    if not axis.yaxis_inverted():
        axis.invert_yaxis()
    ends = [length + extra for length, extra in zip(lengths, above, strict=True)]
    known = [value for value in lengths if value > 0]
    if known and max(known) > LOG_FROM * min(known):
        axis.set_xscale("log")
        axis.set_xlim(min(known) / 3, max(ends) * 6)
    elif known:
        axis.set_xlim(0, max(ends) * 1.25)
    left = axis.get_xlim()[0]
    for place, value, end in zip(places, values, ends, strict=True):
        text = "-" if value is None else digits(value)
        axis.annotate(text, (max(end, left), place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)


def draw_accuracy(report: AccuracyReport) -> bytes:
    """PNG of accuracy after the last epoch: bars grouped by domain, their mean last, a colour for each method.

    The whiskers are the standard deviation over seeds. Where photos leave at exits, a white line in the bar is the best
    choice that does not look at the photo.
    """
    rows, conditions = report["rows"], report["conditions"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    groups: dict[str, Mapping[str, AccuracyRow | OverallRow]] = {
        domain: {row["method"]: row for row in rows if row["domain"] == domain} for domain in domains
    }
    if len(domains) > 1 and report["overall"]:
        groups["mean"] = {row["method"]: row for row in report["overall"]}
    figure = _figure(min(16.0, max(7.0, 1.5 + len(groups) * (0.5 + 0.25 * len(methods)))), 4.4)
    axis = figure.subplots()
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        found = [(place, group[method]) for place, group in enumerate(groups.values()) if method in group]
        at = [place + (i - (len(methods) - 1) / 2) * width for place, _ in found]
        means = [100 * row["last_mean"] for _, row in found]
        errors = [100 * (row["last_std"] or 0.0) for _, row in found]
        axis.bar(
            at, means, width, yerr=errors, color=f"C{i % 10}", label=method, error_kw={"ecolor": "0.3", "capsize": 2}
        )
        for x, mean, error in zip(at, means, errors, strict=True):
            axis.annotate(f"{mean:.0f}", (x, mean + error), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        blind = [(x, row["gated"]) for x, (_, row) in zip(at, found, strict=True) if row["gated"] is not None]
        for x, gated in blind:
            axis.plot([x - width / 2, x + width / 2], [100 * gated["static_mean"]] * 2, color="white", lw=2)
    lowest = min(
        100 * (row["last_mean"] - (row["last_std"] or 0.0)) for group in groups.values() for row in group.values()
    )
    start = max(0, 10 * int(lowest // 10) - 10)
    axis.set_ylim(start, 102)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_ylabel("accuracy after the last epoch, %" + (f" (from {start})" if start else ""))
    axis.set_title(
        f"{conditions['backbone']}, {conditions['size']} px, {conditions['epochs']} epochs, "
        f"{conditions['seeds']} seeds: mean and standard deviation",
        fontsize=10,
    )
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=min(len(methods), 5), fontsize=8)
    return _png(figure)


def draw_run(report: EngineReport) -> bytes:
    """PNG of the engine's latency by the share of block FLOPs run, a panel for each batch size.

    Points are p50 with a bar to p90; a line shows where time would fall as FLOPs do.
    """
    rows, conditions = report["rows"], report["conditions"]
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    figure = _figure(5.6 * len(batches) + 1, 4.4)
    for axis, batch in zip(np.atleast_1d(figure.subplots(1, len(batches))), batches, strict=True):
        found = {row["name"]: row for row in rows if row["batch"] == batch}
        for i, (name, row) in enumerate(found.items()):
            middle, high = row["p50_ms"], row["p90_ms"]
            marker = "s" if name == "monolithic" else "o"
            axis.errorbar(
                100 * row["flops_share"], middle, yerr=([0], [high - middle]), fmt=marker, color=f"C{i}", capsize=3,
                label=f"{name}: {middle:.2f} ms",
            )  # fmt: skip
        base = found.get("monolithic")
        if base is not None:
            axis.plot([0, 100], [0, base["p50_ms"]], "--", color="0.6", label="as fast as its FLOPs", zorder=0)
        axis.set_xlim(0, 105)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("block FLOPs run, %")
        axis.set_ylabel(f"ms a batch of {batch}, p50 (bar: to p90)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    figure.suptitle(f"domain {report['domain']}, {conditions['image_size']} px, {conditions['backend']}", fontsize=10)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
