"""What ``da3 demo`` prints."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from da3.toolchain.demo.demo import DemoReport, DemoRow


def demo_table(report: DemoReport) -> Table:
    """The demo's last word: a column per domain."""
    table = Table("", *(row.domain for row in report.rows), title="measured just now, on this machine")
    lines: list[tuple[str, Callable[[DemoRow], str]]] = [
        ("accuracy of a linear probe", lambda r: f"{r.linear_accuracy:.1%}"),
        ("accuracy of da3, every block", lambda r: f"{r.all_on_accuracy:.1%}"),
        ("accuracy of da3, easy pictures leave early", lambda r: f"{r.accuracy:.1%}"),
        ("block FLOPs skipped", lambda r: f"{1 - r.flops_share:.0%}"),
        ("latency, all blocks on", lambda r: f"{r.all_on_ms:.2f} ms"),
        ("latency, easy pictures leave early", lambda r: f"{r.gated_ms:.2f} ms (x{r.all_on_ms / r.gated_ms:.2f})"),
        ("switching to the domain", lambda r: f"{r.switch_us:.1f} us"),
        ("size of the domain pack", lambda r: f"{r.pack_bytes / 1e3:.0f} KB"),
    ]
    for name, show in lines:
        table.add_row(name, *(show(row) for row in report.rows))
    table.caption = (
        "accuracy on validation pictures; latency: mean of single pictures, engine only\n"
        f"bundle {report.bundle}, curves {report.curves}; to look at: {report.report}"
    )
    return table
