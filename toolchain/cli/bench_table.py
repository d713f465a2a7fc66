"""What ``da3 bench run`` prints."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def bench_table(report: dict[str, Any]) -> Table:
    """One monolithic model, the engine and its gates; then what else was measured."""
    table = Table(
        "", "batch", "FLOPs", "p50", "p90", "p99", "images/s", "time", "gain", title=f"domain {report['domain']}"
    )
    table.columns[0].no_wrap = True
    for row in report["rows"]:
        table.add_row(
            row["name"],
            str(row["batch"]),
            _percent(row["flops_share"]),
            *(f"{row[f'{p}_ms']:.2f}" for p in ("p50", "p90", "p99")),
            f"{row['images_per_second']:.0f}",
            *("-" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio_to_monolithic", "gain_per_flop")),
        )
    lines = [
        "FLOPs: share of the blocks' that ran; p50 to p99: ms a batch; time: over the monolithic model's;",
        "gain: time gained over FLOPs saved",
        f"all-on / gated, medians: {report['ratio']:.2f}",
    ]
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


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
