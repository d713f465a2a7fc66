"""What many domains on many boards take, from what one and ten take here: a model, and how well it foretold a hundred.

Each figure is either a constant of a domain (what a pack, a push or a load takes), or a fixed part and a part for each
domain (disk, memory). Nothing else is in the model: no network's loss, no queue at a registry.
"""

from __future__ import annotations

from collections.abc import Sequence

from da3.toolchain.bench.reports import Foretold, ScaleAssumptions, Scaled, ScaleRow

# Of a row: what grows with the number of domains in it, and what does not.
GROWING = ("disk_bytes", "resident_bytes", "names_ms")
CONSTANT = (
    "pack_bytes",
    "add_ms",
    "load_ms",
    "switch_us",
    "push_ms",
    "push_bytes",
    "pull_ms",
    "pull_bytes",
    "poll_bytes",
)
_POLL_BYTES = 2_000  # a manifest, and the headers of a request and its answer, where no registry was measured


def foretell(rows: Sequence[ScaleRow]) -> list[Foretold]:
    """Each figure of the last row, from the first two, beside what was measured. Of fewer than three rows nothing can
    be said."""
    if len(rows) < 3:
        return []
    found: list[Foretold] = []
    for figure in (*CONSTANT, *GROWING):
        measured = figures(rows[-1]).get(figure)
        guess = at(rows[:2], figure, rows[-1]["domains"])
        if measured is not None and guess is not None:
            error = guess / measured - 1.0 if measured else 0.0
            found.append({"figure": figure, "foretold": guess, "measured": measured, "error": error})
    return found


def at(rows: Sequence[ScaleRow], figure: str, domains: int) -> float | None:
    """A figure at so many domains, by the model of the first and the last of ``rows``; None where they lack it."""
    few, many = figures(rows[0]).get(figure), figures(rows[-1]).get(figure)
    if few is None or many is None:
        return None
    if figure in CONSTANT or len(rows) == 1:
        return many
    slope = (many - few) / (rows[-1]["domains"] - rows[0]["domains"])
    return few + slope * (domains - rows[0]["domains"])


def figures(row: ScaleRow) -> dict[str, float | None]:
    """The row's numbers by their names."""
    return {key: value for key, value in row.items() if value is None or isinstance(value, (int, float))}


def scaled(rows: Sequence[ScaleRow], backbone_bytes: int, assumed: ScaleAssumptions) -> Scaled:
    """What the fleet of ``assumed`` takes. What no row has, as pushes where there was no registry, is None."""
    domains, boards, held = assumed["domains"], assumed["boards"], assumed["domains_a_board"]
    link = assumed["megabits_a_second"] * 1e6 / 8
    pack, push, pull = (at(rows, name, domains) for name in ("pack_bytes", "push_bytes", "pull_bytes"))
    push_ms, add_ms = at(rows, "push_ms", domains), at(rows, "add_ms", held)
    assert pack is not None
    poll = at(rows, "poll_bytes", domains) or _POLL_BYTES
    pull = pack + poll if pull is None else pull
    polls = boards * held
    return {
        "registry_bytes": domains * pack,
        "push_all_bytes": None if push is None else domains * push,
        "push_all_seconds": None if push_ms is None else domains * push_ms / 1e3,
        "roll_out_bytes": polls * pull,
        "roll_out_seconds_at_link": polls * pull / link,
        "board_add_seconds": None if add_ms is None else held * add_ms / 1e3,
        "board_disk_bytes": at(rows, "disk_bytes", held),
        "board_resident_bytes": at(rows, "resident_bytes", held),
        "one_changed_bytes": boards * pull,
        "poll_bytes_an_hour": polls * poll,
        "polls_a_second": polls / 3600.0,
        "server_disk_bytes": at(rows, "disk_bytes", domains),
        "server_resident_bytes": at(rows, "resident_bytes", domains),
        "server_load_seconds": None if (load := at(rows, "load_ms", domains)) is None else domains * load / 1e3,
        "server_names_ms": at(rows, "names_ms", domains),
        "apart_bytes": domains * (pack + backbone_bytes),
    }
