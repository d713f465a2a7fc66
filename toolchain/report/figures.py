"""The figures of a report, by matplotlib. Each takes plain numbers, and returns a drawing for a page.

Shares come as 0 to 1 and are drawn in percent. What a figure shows is also told in words by whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from da3.runtime.calibration import Bin
from da3.runtime.records import Array
from da3.toolchain.report.drawing import DASHES, INK, MARKS, PAPER, RULE, SERIES, SOFT, Svg, draw
from da3.toolchain.report.words import printable

_NAME = 22  # letters of a name in a figure; the table below it has all of them


@dataclass(frozen=True)
class Line:
    """A named curve. ``marked``: whether each point has a mark."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    marked: bool = False


@dataclass(frozen=True)
class Spot:
    """A named point. ``low``, ``high``: the interval around ``y``, if it is known. ``large``: what matters most."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    large: bool = False


def lines(curves: Sequence[Line], x: str, y: str, whole: bool = True, from_zero: bool = False) -> Svg:
    """Curves over a common axis. whole: whether x counts in whole numbers. from_zero: whether y begins at 0."""

    def paint(figure: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        axis = figure.subplots()
        for i, curve in enumerate(curves):
            mark = MARKS[i % len(MARKS)] if curve.marked or len(curve.xs) == 1 else None
            axis.plot(
                curve.xs, curve.ys, color=_colour(i), ls=DASHES[i % len(DASHES)], marker=mark, label=short(curve.name)
            )
        axis.xaxis.set_major_locator(MaxNLocator(integer=whole, nbins=7))
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        if from_zero:
            axis.set_ylim(bottom=0, top=1.12 * max(max(curve.ys) for curve in curves))
        _legend(axis, len(curves))

    return draw(paint)


def reliability(bins_of: Sequence[tuple[str, Sequence[Bin]]]) -> Svg:
    """Accuracy by confidence (Guo et al., arXiv 1706.04599, figure 1), and below it how many photos are how sure. Bars
    of one evaluation, or a line for each of several."""

    def paint(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3.2, 1)})
        above.plot([0, 100], [0, 100], color=SOFT, lw=1, ls=(0, (2, 2)))
        for i, (name, bins) in enumerate(bins_of):
            seen = [one for one in bins if one.photos]
            right = [100 * (one.accuracy or 0.0) for one in seen]
            total = sum(one.photos for one in seen)
            middle = [50 * (one.low + one.high) for one in seen]
            width = 100 * (bins[0].high - bins[0].low) * 0.9
            share = [100 * one.photos / total for one in seen]
            if len(bins_of) == 1:
                above.bar(middle, right, width, color=_colour(0), alpha=0.75)
                below.bar(middle, share, width, color=_colour(0), alpha=0.75)
            else:
                sure = [100 * (one.confidence or 0.0) for one in seen]
                above.plot(sure, right, color=_colour(i), ls=DASHES[i % 6], marker=MARKS[i % 6], label=short(name))
                below.plot(middle, share, color=_colour(i), ls=DASHES[i % 6], marker=MARKS[i % 6])
        above.text(
            5, 8, "as sure as right", rotation=45, rotation_mode="anchor", transform_rotates_text=True, color=SOFT
        )
        above.set_ylim(0, 102)
        above.set_xlim(0, 100)
        above.set_ylabel("right, %")
        below.set_ylabel("photos, %")
        below.set_xlabel("confidence, %")
        _legend(above, len(bins_of), loc="upper left")

    return draw(paint, height=3.4)


def surest(ranked: Sequence[tuple[str, Array, Array]]) -> Svg:
    """Accuracy among the surest photos, by how many those are: for each name shares of photos and accuracies."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for i, (name, shares, accuracies) in enumerate(ranked):
            axis.plot(100 * shares, 100 * accuracies, color=_colour(i), ls=DASHES[i % 6], label=short(name))
        lowest = min(float(accuracies.min()) for _, _, accuracies in ranked)
        axis.set_ylim(max(0.0, 100 * lowest - 5), 101)
        axis.set_xlim(0, 100)
        axis.set_xlabel("the surest photos, %")
        axis.set_ylabel("right among them, %")
        _legend(axis, len(ranked), loc="lower left")

    return draw(paint, height=3.4)


def trade(curves: Sequence[Line], spots: Sequence[Spot], x: str) -> Svg:
    """Accuracy against what it costs: curves, and named points with their intervals."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        for i, curve in enumerate(curves):
            axis.plot(
                curve.xs, [100 * y for y in curve.ys], color=_colour(i), ls=DASHES[i % 6], label=short(curve.name)
            )
        for i, spot in enumerate(spots, len(curves)):
            if spot.low is not None and spot.high is not None:
                axis.plot([spot.x] * 2, [100 * spot.low, 100 * spot.high], color=_colour(i), lw=1)
            size = 9 if spot.large else 7
            axis.plot(
                [spot.x],
                [100 * spot.y],
                MARKS[i % 6],
                ms=size,
                color=_colour(i),
                mec=PAPER,
                mew=0.8,
                ls="",
                label=short(spot.name),
            )
        axis.margins(x=0.08, y=0.12)
        axis.set_xlabel(x)
        axis.set_ylabel("right, %")
        _legend(axis, len(curves) + len(spots), always=True)

    return draw(paint, height=3.2)


def by_group(names: Sequence[str], values: Sequence[Array], x: str) -> Svg:
    """How a figure spreads in each of some groups: boxes from the 25th to the 75th percentile, whiskers from the 5th to
    the 95th, a line at the median."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        places = np.arange(len(names))[::-1]
        for place, value in zip(places, values, strict=True):
            if not len(value):
                continue
            low, left, middle, right, high = np.percentile(value, (5, 25, 50, 75, 95))
            axis.plot([low, high], [place, place], color=SERIES[0], lw=1.2)
            axis.barh(place, right - left, 0.55, left, color=SERIES[0], alpha=0.5)
            axis.plot([middle, middle], [place - 0.28, place + 0.28], color=INK, lw=1.8)
        axis.set_yticks(places, [short(name) for name in names])
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_xlim(left=0)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(x)

    return draw(paint, height=1.0 + 0.28 * len(names))


def blocks(flops: Sequence[float], closed: Sequence[int], exits: Sequence[int], unit: str) -> Svg:
    """What each block costs; those that are closed are hollow, and exits are lines behind their blocks."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        places = np.arange(len(flops))
        shut = np.isin(places, closed)
        axis.bar(places[~shut], np.array(flops)[~shut], color=SERIES[0], alpha=0.8, width=0.78)
        if shut.any():
            axis.bar(places[shut], np.array(flops)[shut], fc="none", ec=SERIES[0], ls=(0, (2, 1)), width=0.78)
        top = 1.2 * max(flops) if max(flops) > 0 else 1.0
        for number, block in enumerate(exits, 1):
            axis.axvline(block + 0.5, color=SERIES[1], lw=1.2, ls=(0, (4, 2)))
            axis.text(block + 0.5, top, f"exit {number} ", color=SERIES[1], ha="right", va="top", rotation=90)
        axis.set_ylim(0, top)
        axis.set_xlim(-0.7, len(flops) - 0.3)
        axis.grid(axis="x", visible=False)
        axis.set_xlabel("block")
        axis.set_ylabel(unit)

    return draw(paint)


def matrix(counts: Array) -> Svg:
    """A confusion matrix too large for a table, rows being labels: each cell as dark as its share of its row."""

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        shares = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)).astype(np.float32)
        # One blue that stands out from light and from dark, and as much of it as there is to show.
        picture = np.zeros((*counts.shape, 4), np.uint8)
        picture[..., :3] = 0x4C, 0x82, 0xE0
        picture[..., 3] = np.where(counts > 0, 38 + 217 * shares, 0)
        axis.imshow(picture, interpolation="nearest", aspect="equal")
        axis.grid(visible=False)
        axis.set_xlabel("answer, by the number of the class")
        axis.set_ylabel("label, by the number of the class")
        for spine in axis.spines.values():
            spine.set_visible(True)
            spine.set_color(RULE)

    return draw(paint, height=4.0)


def short(name: str) -> str:
    """A name that fits into a figure."""
    name = printable(name)
    half = (_NAME - 1) // 2  # names that are alike in the beginning may differ in the end
    return name if len(name) <= _NAME else f"{name[:half]}…{name[-half:]}"


def _colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _legend(axis: Any, entries: int, loc: str = "best", always: bool = False) -> None:
    if entries > 1 or always:
        axis.legend(loc=loc)
