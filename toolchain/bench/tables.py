"""Tables of what ``da3 bench`` measured."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

WIDEST = 18  # characters of a method's label on one line


def train_table(report: Mapping[str, Any]) -> Table:
    """What training costs, a row per method; below each figure, how many times fine-tuning's it is.

    In brackets the share of block FLOPs that ran, where that is not all.
    """
    rows = report["rows"]
    table = Table(title="training, one method a process, in turns", box=box.SIMPLE_HEAD)
    labels = {row["method"]: re.sub("([:,])", r"\1\n", row["method"]) for row in rows}  # where they may best be broken
    longest = max((len(line) for label in labels.values() for line in label.split("\n")), default=0)
    table.add_column("method", min_width=min(longest, WIDEST), overflow="fold")
    for name in ("kept\nper image", "peak\ngrowth", "step,\nmedian", "trained", "stored"):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:

        def cell(key: str, text: str, row: Mapping[str, Any] = row) -> str:
            ratio = (row["ratios"] or {}).get(key)
            return text if ratio is None else f"{text}\nx{digits(ratio, 2)}"

        kept = row["kept_bytes_per_image"]
        cells = [
            cell("kept_bytes_per_image", "-" if kept is None else size(kept)),
            cell("peak_growth_bytes", size(row["peak_growth_bytes"])),
            cell(
                "step_seconds_median",
                f"{digits(row['step_seconds_median'])} s\nIQR {digits(row['step_seconds_iqr'], 2)}",
            ),
            cell("trainable_parameters", _count(row["trainable_parameters"])),
            cell("domain_bytes", size(row["domain_bytes"])),
        ]
        ran = f"\n({row['flops_share']:.1%} run)" if row["flops_share"] < 1 else ""
        table.add_row(escape(labels[row["method"]] + ran), *cells)
    lines = [f"{f['method']} failed: {f['error']}" for f in report["failed"]]
    table.caption = escape("\n".join([*lines, conditions_line(report["conditions"])]))
    return table


def conditions_line(conditions: Mapping[str, Any]) -> str:
    """Conditions as one text; what is itself a mapping (the methods' levers) is for JSON readers."""
    return ", ".join(f"{k} {v}" for k, v in conditions.items() if v is not None and not isinstance(v, Mapping))


def digits(value: float, count: int = 3) -> str:
    """``count`` significant digits, never with an exponent: 1,234, 56.7, 0.0123."""
    if value == 0:
        return "0"
    places = min(max(count - 1 - math.floor(math.log10(abs(value))), 0), 12)
    return f"{value:,.{places}f}"


def _count(number: int) -> str:
    return f"{digits(number / 1e6)} M" if number >= 1e6 else f"{number:,}"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(count) >= scale:
            return f"{digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def accuracy_table(report: Mapping[str, Any]) -> Table:
    """Accuracy on the validation photos, a line per domain and method, and the mean over domains."""
    table = Table(title="accuracy on the validation photos, mean over seeds and standard deviation")
    for name in ("domain", "method"):
        table.add_column(name, overflow="fold")
    for name in ("last epoch", "best epoch", "block FLOPs run", "seeds"):
        table.add_column(name, justify="right")
    sections: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["rows"]:
        sections.setdefault(row["domain"], []).append(row)
    if len(sections) > 1:
        sections["mean of the domains"] = report["overall"]
    for domain, rows in sections.items():
        for i, row in enumerate(rows):
            table.add_row(
                escape(domain) if i == 0 else "",
                escape(row["method"]),
                *(_spread(row[f"{which}_mean"], row[f"{which}_std"]) for which in ("last", "best")),
                f"{row['flops_share']:.1%}",
                str(len(row["seeds"])),
                end_section=i == len(rows) - 1,
            )
    lines = [f"{f['method']} on {f['domain']}, seed {f['seed']} failed: {f['error']}" for f in report["failed"]]
    if report["remaining"]:
        lines.append(f"{report['remaining']} runs are missing")
    table.caption = escape("\n".join([*lines, conditions_line(report["conditions"])]))
    return table


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.1%}" if std is None else f"{100 * mean:.1f} +- {100 * std:.1f} %"
