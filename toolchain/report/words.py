"""Figures and foreign texts as a report writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from da3.runtime.errors import stands_in_a_line

NONE = "–"  # noqa: RUF001 (the dash that stands where there is nothing)
_SPACE = "\u00a0"  # between a number and its unit, where no line shall break


def printable(text: str) -> str:
    """The text with what does anything but stand in its line written as an escape; line ends stay."""
    return "".join(c if c == "\n" or stands_in_a_line(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def percent(share: float | None, digits: int = 1) -> str:
    """0.887 -> 88.7 %."""
    return NONE if share is None else f"{100 * share:.{digits}f}{_SPACE}%"


def points(difference: float | None) -> str:
    """0.012 -> +1.2 points."""
    return NONE if difference is None else f"{100 * difference:+.1f}{_SPACE}points"


def milliseconds(ms: float | None) -> str:
    """2.613 -> 2.61 ms."""
    return NONE if ms is None else f"{ms:.2f}{_SPACE}ms"


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or the dash."""
    return NONE if value is None else format(value, form)


def megabytes(mb: float) -> str:
    """Of 10^6 bytes, as runs write them down."""
    return f"{mb:,.0f}{_SPACE}MB"


def kilobytes(nbytes: float) -> str:
    """A size on disk, in KB or MB of powers of ten."""
    return f"{nbytes / 1e3:,.0f}{_SPACE}KB" if nbytes < 1e6 else f"{nbytes / 1e6:,.1f}{_SPACE}MB"


def count(how_many: int, one: str, many: str = "") -> str:
    """1 photo, 2 photos."""
    return f"{how_many:,}{_SPACE}{one if how_many == 1 else many or one + 's'}"


def when(utc: Any) -> str:
    """2026-11-26T08:00:00Z -> 2026-11-26 08:00:00 UTC."""
    return NONE if not utc else str(utc).replace("T", " ").replace("Z", " UTC")


def where_left(exit_number: int | None) -> str:
    """An exit, counted from 0, by its place; None is the end."""
    return "the end" if exit_number is None else f"exit {exit_number + 1}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """a, b and c; or a, b and 7 more."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))


def plain(value: Any) -> str:
    """A value of JSON as a setting is written."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(one) for one in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)
