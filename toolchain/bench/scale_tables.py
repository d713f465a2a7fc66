"""The tables of ``da3 bench scale``: what was measured, how a model foretells it, and what the model says of more."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from da3.runtime.system import duration
from da3.toolchain.bench.reports import ScaleReport
from da3.toolchain.bench.scale_model import figures
from da3.toolchain.bench.tables import conditions_line, digits, size

_NAMES = {
    "pack_bytes": "a pack",
    "add_ms": "add a pack",
    "load_ms": "load into memory",
    "switch_us": "switch, in memory",
    "push_ms": "push",
    "push_bytes": "  on the wire",
    "pull_ms": "pull",
    "pull_bytes": "  on the wire",
    "poll_bytes": "  if it is there, on the wire",
    "disk_bytes": "all on disk",
    "names_ms": "open, and list names",
    "one_bytes": "resident, one in memory",
    "resident_bytes": "resident, all in memory",
    "layout_bytes": "  with other blocks closed",
    "layout_ms": "  its first answer",
}
_MODEL = {
    "registry_bytes": "packs in the registry",
    "push_all_bytes": "all pushed once, on the wire",
    "push_all_seconds": "  from one machine, one after the other, as fast as here",
    "roll_out_bytes": "each board pulls its domains, on the wire",
    "roll_out_seconds_at_link": "  over one link of the registry's",
    "board_add_seconds": "a board adds its domains, as fast as here",
    "board_disk_bytes": "  on its disk, beside the backbone",
    "board_resident_bytes": "  resident, all of its in memory",
    "one_changed_bytes": "one domain that all boards have changes, on the wire",
    "poll_bytes_an_hour": "every board asks for each domain once an hour, on the wire",
    "polls_a_second": "  requests a second",
    "server_disk_bytes": "a server with all of them: on disk",
    "server_resident_bytes": "  resident, all in memory",
    "server_load_seconds": "  to load all, as fast as here",
    "server_names_ms": "  to open the bundle and list names",
    "apart_bytes": "as models of their own, one backbone each",
}


def scale_table(report: ScaleReport) -> Group:
    """Three tables, of which only the first two were measured."""
    rows, foretold = report["rows"], {found["figure"]: found for found in report["foretold"]}
    measured = Table(title=f"copies of {report['domain']} in one bundle, measured", box=box.SIMPLE_HEAD)
    measured.add_column("domains", no_wrap=True)
    for row in rows:
        measured.add_column(f"{row['domains']:,}", justify="right", no_wrap=True)
    if foretold:
        measured.add_column("foretold", justify="right", no_wrap=True)
    for figure, name in _NAMES.items():
        cells = [_cell(figure, figures(row).get(figure)) for row in rows]
        if foretold:
            found = foretold.get(figure)
            cells.append("" if found is None else f"{_cell(figure, found['foretold'])} ({found['error']:+.0%})")
        measured.add_row(name, *cells)
    measured.caption = escape(conditions_line(report["conditions"]))
    assumed = report["assumed"]
    fleet = f"{assumed['domains']:,} domains, {assumed['boards']:,} boards of {assumed['domains_a_board']:,}"
    model = Table(title=f"by the model, not measured: {fleet}", box=box.SIMPLE_HEAD, show_header=False)
    model.add_column("", min_width=60)
    model.add_column("", justify="right", no_wrap=True)
    for figure, name in _MODEL.items():
        value = report["model"][figure]  # type: ignore[literal-required]
        model.add_row(name, _cell(figure, value))
    model.caption = f"one link: {assumed['megabits_a_second']:g} Mbit/s"
    return Group(measured, model)


def _cell(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if "bytes" in figure:
        return size(value)
    if "seconds" in figure:
        return f"{digits(value)} s" if value < 60 else duration(value)
    if figure.endswith("_ms"):
        return f"{digits(value)} ms"
    return f"{digits(value)} us" if figure.endswith("_us") else digits(value)
