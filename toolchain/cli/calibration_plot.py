"""The picture that ``da3 calibrate --plot`` draws."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from da3.calib import ExitCalibration
from da3.runtime.calibration import Point, best_static
from da3.toolchain.cli.calibration_tables import answer_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_calibration(done: ExitCalibration) -> bytes:
    """PNG: accuracy by block FLOPs, and by milliseconds where they were measured, for every level that was tried.

    The point chosen is marked, and what it is worth on photos that it was not chosen on; beside them the best that a
    choice can do that is blind to the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 2 if done.latency_curve else 1
    figure = Figure(figsize=(5.6 * panels + 0.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    _panel(
        axes[0],
        done,
        [(100 * point.cost, point) for point in done.flops_curve],
        [100 * answer.flops_share for answer in done.answers],
        [100 * score.flops_share for score in (done.after, done.checked)],
    )
    axes[0].set_xlabel("block FLOPs run, %")
    axes[0].set_ylabel("accuracy, %")
    if done.latency_curve:
        _panel(
            axes[1],
            done,
            [(point.cost, point) for point in done.latency_curve],
            [answer.latency_ms or 0.0 for answer in done.answers],
            [score.latency_ms or 0.0 for score in (done.after, done.checked)],
        )
        axes[1].set_xlabel("mean ms a picture, on this device")
    axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle(f"{done.domain}, {done.photos} photos: {done.goal}", fontsize=10)
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()


def _panel(
    axis: Axes,
    done: ExitCalibration,
    levels: Sequence[tuple[float, Point]],
    answer_costs: Sequence[float],
    chosen_costs: Sequence[float],
) -> None:
    """levels: (cost, point) of the curve. answer_costs: of each exit and the end; chosen_costs: of `after` and
    `checked`. All costs are in the unit of the axis."""
    costs = [cost for cost, _ in levels]
    axis.plot(costs, [100 * point.accuracy for _, point in levels], color="C0", label="exits, by threshold")
    blind = np.linspace(min(answer_costs), max(answer_costs), 100)
    accuracies = np.array([answer.accuracy for answer in done.answers])
    static = [100 * best_static(np.array(answer_costs), accuracies, cost) for cost in blind]
    axis.plot(blind, static, "--", color="0.5", label="best choice blind to the picture")
    axis.plot(answer_costs, 100 * accuracies, "o", color="0.5", markersize=4)
    for answer, cost in zip(done.answers, answer_costs, strict=True):
        axis.annotate(
            answer_name(answer.block), (cost, 100 * answer.accuracy), (3, -11), textcoords="offset points", fontsize=7
        )
    chosen, checked = chosen_costs
    _mark(axis, chosen, done.after.accuracy, "chosen", marker="o", color="C3")
    _mark(axis, checked, done.checked.accuracy, "checked on other photos", marker="D", color="C1")
    axis.margins(x=0.1)
    axis.grid(alpha=0.3)


def _mark(axis: Axes, cost: float, accuracy: float, name: str, marker: str, color: str) -> None:
    axis.plot([cost], [100 * accuracy], marker, color=color, markersize=8, label=f"{name}: {accuracy:.1%}")
