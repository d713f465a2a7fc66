"""What ``da3 calibrate`` prints: a threshold before and after, or INT8 against float32."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from da3.calib import Calibration, Int8Calibration


def calibration_table(done: Calibration) -> Table:
    """A threshold before and after."""
    table = Table("", "threshold", "accuracy", "block FLOPs run", title=f"{done.domain}, {done.photos} photos")
    for name, score in (("all blocks", done.all_on), ("before", done.before), ("after", done.after)):
        theta = "-" if name == "all blocks" else f"{score.theta:.3f}"
        table.add_row(name, theta, f"{score.accuracy:.1%}", f"{score.flops_share:.1%}")
    if done.unreadable:
        table.caption = f"{len(done.unreadable)} photos could not be read: {escape(done.unreadable[0][1])}"
    return table


def int8_table(done: Int8Calibration) -> Table:
    """INT8 against float32, by domain."""
    table = Table(
        "domain",
        "photos compared",
        "same answer",
        "same gates",
        "largest difference of a logit",
        title=f"INT8: {done.quantised} of {done.values} inputs of convolutions, measured on {done.measured} photos",
    )
    for row in done.agreements:
        difference = f"{row.logit_error:.2f} (largest: {row.logit_largest:.1f})"
        table.add_row(row.domain, str(row.photos), f"{row.same_answer:.1%}", f"{row.same_gates:.1%}", difference)
    if done.unreadable:
        table.caption = f"{len(done.unreadable)} photos could not be read: {escape(done.unreadable[0][1])}"
    return table
