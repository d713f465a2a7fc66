"""What ``da3 runs`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from da3.runtime.errors import printable
from da3.runtime.system import duration
from da3.toolchain.runs import FoundRun


def runs_table(runs: Sequence[FoundRun]) -> Table:
    """A line for each run; accuracies as deployed, so where sure photos leave early if they do."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("run", "accuracy", "FLOPs", "epochs", "time", "memory", "backbone, px", "begun"):
        table.add_column(name, no_wrap=name == "run", overflow="fold")
    for run in runs:
        config = run.config
        method = "" if config.method == "da3" else f"{config.method} on "
        table.add_row(
            escape(run.name),
            _percent(run.accuracy if run.kept_accuracy is None else run.kept_accuracy),
            "-" if run.flops_share is None else f"{run.flops_share:.0%}",
            _epochs(run),
            _time(run),
            _memory(run),
            f"{method}{config.backbone}, {config.size}",
            _begun(run)[:10],
        )
    return table


def comparison_table(runs: Sequence[FoundRun], differences: dict[str, list[Any]]) -> Table:
    """A column for each run: its figures, then what differs."""
    table = Table("")
    for run in runs:
        table.add_column(escape(run.name), overflow="fold")
    table.add_row("accuracy", *(_percent(run.accuracy) for run in runs))
    if any(run.kept_accuracy is not None for run in runs):
        table.add_row("accuracy with exits", *(_percent(run.kept_accuracy) for run in runs))
    table.add_row("block FLOPs run", *(_percent(run.flops_share) for run in runs))
    table.add_row("epochs", *(_epochs(run) for run in runs))
    table.add_row("time", *(_time(run) for run in runs))
    table.add_row("memory at most", *(_memory(run) for run in runs))
    table.add_row("begun", *(_begun(run) for run in runs))
    table.add_section()
    for name, values in differences.items():
        told = f"{name} beside the shared" if name == "classes" else name
        table.add_row(told, *(escape(_value(name, value)) for value in values))
    if not differences:
        table.caption = "no setting differs"
    return table


def one_run(run: FoundRun) -> str:
    """All that is known of a run, a line for each fact."""
    rows = [
        ("run", str(run.folder)),
        ("accuracy", _percent(run.accuracy)),
        ("accuracy with exits", _percent(run.kept_accuracy)),
        ("block FLOPs run", _percent(run.flops_share)),
        ("epochs", _epochs(run)),
        ("time", _time(run)),
        ("memory at most", _memory(run)),
        ("begun", _begun(run)),
        ("command", str(run.provenance.get("command") or "-")),
        *((name, _value(name, value)) for name, value in run.settings().items() if value is not None),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {text}" for name, text in rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _epochs(run: FoundRun) -> str:
    done, asked = run.progress.epoch, run.config.epochs
    return str(asked) if run.finished else f"{done} of {asked}"


def _time(run: FoundRun) -> str:
    return "-" if run.seconds is None else duration(run.seconds)


def _memory(run: FoundRun) -> str:
    return "-" if run.memory_mb is None else f"{run.memory_mb:,.0f} MB"


def _begun(run: FoundRun) -> str:
    begun = run.provenance.get("begun")
    return "-" if begun is None else printable(str(begun)).replace("T", " ").replace("Z", " UTC")


def _value(name: str, value: Any) -> str:
    """Hashes are cut: their beginnings tell them apart."""
    if value is None:
        return "-"
    if name in ("photos", "weights-sha256"):
        return f"{str(value)[:12]}..."
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)
