"""Tables of what ``da3 bench`` measured."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from statistics import median

from rich import box
from rich.markup import escape
from rich.table import Table

from da3.toolchain.bench.reports import (
    Accuracies,
    AccuracyReport,
    AccuracyRow,
    Conditions,
    DistributedReport,
    EngineReport,
    FleetBenchReport,
    OverallRow,
    Quantiles,
    StreamReport,
    TrainReport,
    WholeReport,
)

WIDEST = 18  # characters of a method's label on one line


def train_table(report: TrainReport) -> Table:
    """What training costs, a row per method; below each figure, how many times fine-tuning's it is.

    In brackets the share of block FLOPs that ran, where that is not all.
    """
    rows = report["rows"]
    table = Table(title="training, one method a process, in turns", box=box.SIMPLE_HEAD)
    labels = {row["method"]: re.sub("([:,])", r"\1\n", row["method"]) for row in rows}  # broken where that reads best
    longest = max((len(line) for label in labels.values() for line in label.split("\n")), default=0)
    table.add_column("method", min_width=min(longest, WIDEST), overflow="fold")
    for name in ("kept\nper image", "peak\ngrowth", "step,\nmedian", "trained", "stored"):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        kept = row["kept_bytes_per_image"]
        figures = {
            "kept_bytes_per_image": "-" if kept is None else size(kept),
            "peak_growth_bytes": size(row["peak_growth_bytes"]),
            "step_seconds_median": f"{digits(row['step_seconds_median'])} s\nIQR {digits(row['step_seconds_iqr'], 2)}",
            "trainable_parameters": _count(row["trainable_parameters"]),
            "domain_bytes": size(row["domain_bytes"]),
        }
        ratios = row["ratios"] or {}
        cells = [_with_ratio(text, ratios.get(key)) for key, text in figures.items()]
        ran = f"\n({row['flops_share']:.1%} run)" if row["flops_share"] < 1 else ""
        table.add_row(escape(labels[row["method"]] + ran), *cells)
    lines = [f"{f['method']} failed: {f['error']}" for f in report["failed"]]
    table.caption = escape("\n".join([*lines, conditions_line(report["conditions"])]))
    return table


def whole_table(report: WholeReport) -> Table:
    """What a command took, a row per method; below peak and time, how many times fine-tuning's they are."""
    table = Table(title="da3 train, from start to written domain", box=box.SIMPLE_HEAD)
    for name in ("method", "engine"):
        table.add_column(name, overflow="fold")
    for name in ("peak", "largest\nchild", "together", "time"):
        table.add_column(name, justify="right", overflow="fold")
    for row in report["rows"]:
        ratios = row["ratios"] or {}
        table.add_row(
            escape(row["method"]),
            row["engine"],
            _with_ratio(size(row["peak_bytes"]), ratios.get("peak_bytes")),
            size(row["children_bytes"]) if row["children_bytes"] else "-",
            size(row["together_bytes"]),
            _with_ratio(f"{digits(row['seconds_median'])} s", ratios.get("seconds_median")),
        )
    lines = [f"{f['method']} failed: {f['error']}" for f in report["failed"]]
    table.caption = escape("\n".join([*lines, conditions_line(report["conditions"])]))
    return table


def fleet_table(report: FleetBenchReport) -> Table:
    """What a cluster took beside a plain loop, and what came of a node that was lost."""
    total = report["domains"]
    table = Table(
        title=f"{total} domains on {report['nodes']} nodes of {report['cpus']} CPUs, a thread each", box=box.SIMPLE_HEAD
    )
    for name in ("case", "time", "finished", "as in the loop, bit by bit"):
        table.add_column(name, justify="left" if name == "case" else "right", overflow="fold")
    rounds = len(report["loop_seconds"])
    apart = sum(not where.endswith("node lost") for where in report["different"])
    looped, clustered = (digits(median(report[name])) for name in ("loop_seconds", "fleet_seconds"))
    table.add_row("plain loop", f"{looped} s", f"{total}", "-")
    fleet = f"{clustered} s\n{report['overhead']:+.1%}"
    table.add_row("da3 fleet train", fleet, f"{total}", f"{total * rounds - apart} of {total * rounds}")
    killed = report["killed"]
    if killed is not None:
        case = f"a node lost after {killed['killed_after']}, {killed['went_on']} went on elsewhere"
        time, finished = f"{digits(killed['seconds'])} s", f"{killed['finished']}"
        table.add_row(case, time, finished, f"{killed['identical']} of {total}")
    lines = [f"{where}: {', '.join(differs[:4])}" for where, differs in report["different"].items()]
    sizes = f"{report['backbone']} ({report['weights']}) at {report['size']} px, {report['epochs']} epochs"
    table.caption = escape("\n".join([*lines, f"{sizes}; {conditions_line(report['conditions'])}"]))
    return table


def accuracy_table(report: AccuracyReport) -> Table:
    """Accuracy on the validation photos, a line per domain and method, and the mean over domains."""
    table = Table(title="accuracy on the validation photos, mean over seeds and standard deviation")
    by_domain: dict[str, list[AccuracyRow]] = {}
    for found in report["rows"]:
        by_domain.setdefault(found["domain"], []).append(found)
    sections: dict[str, Sequence[AccuracyRow | OverallRow]] = {**by_domain}
    if len(by_domain) > 1:
        sections["mean of the domains"] = report["overall"]
    columns = {
        "last epoch": _last,
        "best epoch": _best,
        "block FLOPs run": _ran,
        "best static": _static,
        "dealt at random": _permuted,
        f"over {report['against']}": _against,
        "seeds": _seeds,
    }
    rows = [row for section in sections.values() for row in section]
    shown = {name: cell for name, cell in columns.items() if any(cell(row) != "-" for row in rows)}
    for name in ("domain", "method"):
        table.add_column(name, overflow="fold")
    for name in shown:
        table.add_column(escape(name), justify="right")
    for domain, section in sections.items():
        for i, row in enumerate(section):
            cells = [cell(row) for cell in shown.values()]
            first = escape(domain) if i == 0 else ""
            table.add_row(first, escape(row["method"]), *cells, end_section=i == len(section) - 1)
    lines = [f"{f['method']} on {f['domain']}, seed {f['seed']} failed: {f['error']}" for f in report["failed"]]
    if report["remaining"]:
        lines.append(f"{report['remaining']} runs are missing")
    for choice in report["choices"]:
        means = ", ".join(f"{method} {mean:.1%}" for method, mean in choice["means"].items())
        lines.append(f"{choice['reported']} is the best of {choice['asked']} on {choice['runs']} runs of each: {means}")
    table.caption = escape("\n".join([*lines, conditions_line(report["conditions"])]))
    return table


_Row = Accuracies  # of which a table's cell shows a figure, or "-" where there is none


def _last(row: _Row) -> str:
    return _spread(row["last_mean"], row["last_std"])


def _best(row: _Row) -> str:
    return "-" if row["best_mean"] is None else _spread(row["best_mean"], row["best_std"])


def _ran(row: _Row) -> str:
    return f"{row['flops_share']:.1%}"


def _static(row: _Row) -> str:
    return "-" if row["gated"] is None else f"{row['gated']['static_mean']:.1%}"


def _permuted(row: _Row) -> str:
    return "-" if row["gated"] is None else f"{row['gated']['permuted_mean']:.1%}"


def _against(row: _Row) -> str:
    found = row["against"]
    if found is None:
        return "-"
    error = "" if found["error"] is None else f" +- {100 * found['error']:.1f}"
    return f"{100 * found['mean']:+.1f}{error}"


def _seeds(row: _Row) -> str:
    return str(len(row["seeds"]))


def run_table(report: EngineReport) -> Table:
    """The engine beside one monolithic model, a row per case and batch size; below, what else was measured."""
    table = Table(
        "",
        "batch",
        "FLOPs",
        "calls",
        "mean",
        "p90",
        "p99",
        "time",
        "gain",
        title=f"domain {report['domain']}",
    )
    table.columns[0].no_wrap = True
    for row in report["rows"]:
        table.add_row(
            row["name"],
            str(row["batch"]),
            f"{row['flops_share']:.1%}",
            f"{row['calls']:.1f}",
            *(f"{ms:.2f}" for ms in (row["mean_ms"], row["p90_ms"], row["p99_ms"])),
            *("-" if value is None else f"{value:.2f}" for value in (row["ratio_to_monolithic"], row["gain_per_flop"])),
        )
    lines = [
        "FLOPs: share of the blocks' that ran; calls: of the backend, by a picture; mean to p99: ms a batch;",
        "time: over the monolithic model's; gain: time gained over FLOPs saved",
        f"all-on / gated: {report['ratio']:.2f}",
    ]
    left = next((row["left"] for row in report["rows"] if row["name"] == "gated"), [])
    if left:
        exits = ", ".join(f"{share:.0%} left at exit {number}" for number, share in enumerate(left[:-1]))
        lines.append(f"gated: {exits}, {left[-1]:.0%} ran to the end")
    if report["break_even_skip"] is not None:
        lines.append(f"as fast as the monolithic model from {report['break_even_skip']:.0%} of block FLOPs skipped on")
    switches = ", ".join(f"{us:.1f} us with {n} loaded" for n, us in report["switch_us_by_loaded"].items())
    lines.append(f"domain switch: {switches}")
    lines.append(f"load of a domain from disk: {report['cold_load_ms']:.1f} ms")
    lines.append(
        f"a new process answers after {report['startup_ms']:.0f} ms and holds {report['memory_bytes'] / 1e6:.0f} MB, "
        f"{report['memory_growth_bytes'] / 1e6:.0f} MB more than numpy and da3.runtime"
    )
    lines.append(", ".join(f"{k} {v}" for k, v in report["conditions"].items()))
    table.caption = "\n".join(lines)
    return table


def stream_table(report: StreamReport) -> Table:
    """Where a frame's time went, a row for each part of its way; below, what else was measured."""
    table = Table(title=f"domain {report['domain']}, {report['frames']} frames", box=box.SIMPLE_HEAD, min_width=78)
    table.add_column("milliseconds", no_wrap=True)
    for name in ("p50", "p90", "p99"):
        table.add_column(name, justify="right")
    rows: dict[str, Quantiles] = {
        "sent to answered": report["sent_to_answer_ms"],
        "  sent to arrived": report["sent_to_arrival_ms"],
        "  arrived to answered": report["arrival_to_answer_ms"],
        "    preprocessing": report["prepare_ms"],
        "    engine": report["engine_ms"],
    }
    for name, found in rows.items():
        table.add_row(name, *(f"{found[p]:.2f}" for p in ("p50", "p90", "p99")))
    growth = report["growth_bytes"] / 1e6
    table.caption = escape(
        "\n".join(
            [
                f"{report['fps']:.1f} frames a second answered, {report['dropped']} dropped for newer ones",
                f"engine: {report['engine_share']:.0%} of the time; {report['flops_share']:.1%} of the block FLOPs ran",
                f"{report['cpu_share']:.0%} of one core, decoding included",
                f"memory: {size(report['settled_bytes'])} after 100 frames, since then {growth:+.1f} MB",
                conditions_line(report["conditions"]),
            ]
        )
    )
    return table


def distributed_table(report: DistributedReport) -> Table:
    """What several processes are worth, a row per size of the images."""
    several = report["processes"]
    table = Table(title=f"training with one process and with {several}, in turns", box=box.SIMPLE_HEAD)
    for name in ("size", "step,\none", f"step,\n{several}", "speed-up", "exchanged\na step"):
        table.add_column(name, justify="right")
    threaded = any(row["step_seconds_threads"] for row in report["rows"])
    for name in (
        "accuracy,\none",
        f"accuracy,\n{several}",
        *([f"step, one of\n{several} threads"] if threaded else []),
    ):
        table.add_column(name, justify="right")
    for row in report["rows"]:
        ratios = row["speed_ups"]
        table.add_row(
            f"{row['size']} px",
            f"{digits(1000 * statistics.median(row['step_seconds_one']))} ms",
            f"{digits(1000 * statistics.median(row['step_seconds_several']))} ms",
            f"x{digits(row['speed_up'])}\n{digits(min(ratios))} to {digits(max(ratios))}",
            f"{size(row['bytes_a_step'])}\n{digits(1000 * row['exchange_seconds'], 2)} ms",
            *(_mean_and_spread(found) for found in (row["accuracy_one"], row["accuracy_several"])),
            *([f"{digits(1000 * statistics.median(row['step_seconds_threads']))} ms"] if threaded else []),
        )
    table.caption = escape(conditions_line(report["conditions"]))
    return table


def _mean_and_spread(values: Sequence[float]) -> str:
    return _spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def digits(value: float, count: int = 3) -> str:
    """``count`` significant digits, never with an exponent: 1,234, 56.7, 0.0123."""
    if value == 0:
        return "0"
    places = min(max(count - 1 - math.floor(math.log10(abs(value))), 0), 12)
    return f"{value:,.{places}f}"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(count) >= scale:
            return f"{digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def conditions_line(conditions: Conditions) -> str:
    """Conditions as one text; what is itself a mapping (the methods' memory settings) is for JSON readers."""
    return ", ".join(f"{k} {v}" for k, v in conditions.items() if v is not None and not isinstance(v, Mapping))


def _with_ratio(text: str, ratio: float | None) -> str:
    return text if ratio is None else f"{text}\nx{digits(ratio, 2)}"


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.1%}" if std is None else f"{100 * mean:.1f} +- {100 * std:.1f} %"


def _count(number: int) -> str:
    return f"{digits(number / 1e6)} M" if number >= 1e6 else f"{number:,}"
