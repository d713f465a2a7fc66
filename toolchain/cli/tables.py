"""Tables and bars of the command line: how results look, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

if TYPE_CHECKING:
    from da3.calib import Calibration, Int8Calibration
    from da3.export.exporter import Exported
    from da3.export.verify import Check
    from da3.toolchain.demo.demo import DemoReport, DemoRow
    from da3.toolchain.training.train import Result


NEAR_BUDGET = 0.05  # how far above --keep a share of block FLOPs may stay without a word


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr; yields ``show(what, done, total)``."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def training_summary(result: Result) -> str:
    """The last words of a finished run."""
    lines = []
    if result.best is not None:
        gated = f", running {result.best['val_share']:.0%} of the block FLOPs" if result.best["val_share"] < 1 else ""
        lines.append(
            f"best: {result.best['val_accuracy']:.1%} on the validation photos{gated} "
            f"(epoch {result.best['epoch']:.0f}); in {result.folder}"
        )
        if result.best["val_share"] > result.config.keep + NEAR_BUDGET:
            lines.append(
                f"that is more than --keep {result.config.keep:g} asked for: the run was too short for its gates to "
                f"settle. Train for more epochs, or lower the share with da3 calibrate after the export"
            )
    if result.unreadable:
        lines.append(f"{len(result.unreadable)} photos could not be read and were skipped")
    lines.append(f"next: da3 export --domain {result.folder.name}")
    return "\n".join(lines)


def checks_table(checks: list[Check]) -> Table:
    """Every comparison of an export with PyTorch."""
    table = Table("segment", "computes", "relative error", "", title="verification against PyTorch")
    for check in checks:
        table.add_row(check.name, check.detail, f"{check.error:.1e}", "ok" if check.passed else "FAILED")
    return table


def export_summary(domain: str, done: Exported) -> str:
    """What an export wrote, and where."""
    return f"wrote {done.what}: {done.path} ({domain}: {done.domain_bytes / 1e3:,.0f} KB)"


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


def domains_table(bundle: Path) -> Table:
    """What a bundle holds."""
    from da3.runtime.bundle.bundle import Bundle, read_domain

    with Bundle(bundle) as opened:
        manifest = opened.manifest
        table = Table(
            "domain",
            "classes",
            "accuracy",
            "block FLOPs run",
            "threshold",
            title=f"{bundle}: {manifest.arch} at {manifest.preprocessing.size} px, {len(manifest.blocks)} blocks",
        )
        for name in opened.domains:
            domain = read_domain(opened, name)
            names = ", ".join(domain.classes[:6]) + (", ..." if len(domain.classes) > 6 else "")
            table.add_row(
                name,
                f"{len(domain.classes)}: {escape(names)}",
                _percent(domain.metrics.get("val_accuracy")),
                _percent(domain.metrics.get("flops_share")),
                f"{domain.theta:.3f}" if domain.gated else "no gates",
            )
    return table


def demo_table(report: DemoReport) -> Table:
    """The demo's last word: a column per domain."""
    table = Table("", *(row.domain for row in report.rows), title="measured just now, on this machine")
    lines: list[tuple[str, Callable[[DemoRow], str]]] = [
        ("accuracy of a linear probe", lambda r: f"{r.linear_accuracy:.1%}"),
        ("accuracy of da3, blocks skipped", lambda r: f"{r.accuracy:.1%}"),
        ("block FLOPs skipped", lambda r: f"{1 - r.flops_share:.0%}"),
        ("latency, all blocks on", lambda r: f"{r.all_on_ms:.2f} ms"),
        ("latency, gated", lambda r: f"{r.gated_ms:.2f} ms (x{r.all_on_ms / r.gated_ms:.2f} faster)"),
        ("switching to the domain", lambda r: f"{r.switch_us:.1f} us"),
        ("size of the domain pack", lambda r: f"{r.pack_bytes / 1e3:.0f} KB"),
    ]
    for name, show in lines:
        table.add_row(name, *(show(row) for row in report.rows))
    table.caption = (
        "accuracy on validation pictures; latency: median of single pictures, engine only\n"
        f"bundle {report.bundle}, curves {report.curves}"
    )
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
