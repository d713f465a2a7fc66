"""A report as one HTML page that needs nothing else: no network, no script, no font of its own."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any

from da3.toolchain.report.document import Drawing, Report
from da3.toolchain.report.words import printable

_TEMPLATES = Path(__file__).parent / "templates"


def render(report: Report) -> str:
    """The page. Texts of the report are escaped, whatever they hold."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    numbers = count(1)

    def drawn(drawing: Drawing) -> Any:
        """Its own ids begin with a number that no other figure of the page has."""
        return Markup(drawing.markup(f"f{next(numbers)}-"))

    def shown(value: Any) -> Any:
        return printable(value) if type(value) is str else value

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawn"] = drawn
    environment.globals["style"] = Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    page = environment.get_template("report.html").render(report=report, ids=_Ids())
    return re.sub(r"\n\s*\n+", "\n", page)


class _Ids:
    """Ids for headings and captions, each once."""

    def __init__(self) -> None:
        self._seen = dict.fromkeys(("main", "title", "contents"), 1)  # which the page itself has

    def __call__(self, text: str) -> str:
        """Of a heading: its letters, and a number where another has the same."""
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "section"
        self._seen[name] = self._seen.get(name, 0) + 1
        return name if self._seen[name] == 1 else f"{name}--{self._seen[name]}"
