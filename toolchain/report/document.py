"""What a report is made of, before it is a page: chapters of sections of parts. Nothing here knows HTML or matplotlib.

Texts may come from foreign files; whoever renders them escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol


class Drawing(Protocol):
    """A figure that can be written into a page."""

    def markup(self, prefix: str) -> str:
        """SVG for a page, every id of which begins with ``prefix``."""


@dataclass(frozen=True)
class Words:
    """Paragraphs."""

    kind: ClassVar[str] = "words"
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """One figure that matters: its ``name``, its ``value`` with the unit, and a ``note`` below."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Cards:
    """The figures that matter, side by side."""

    kind: ClassVar[str] = "cards"
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Cell:
    """``share``: 0 to 1, how strongly the cell is shaded; None: not at all. ``alarm``: shaded as what is wrong."""

    text: str
    share: float | None = None
    alarm: bool = False


Row = Sequence["Cell | str"]


@dataclass(frozen=True)
class Table:
    """The first cell of each row names it. ``left``: numbers of the columns that hold words. ``heat``: whether the
    cells are small and shaded, as in a confusion matrix. ``corner`` is what the first column holds."""

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: tuple[int, ...] = (0,)
    heat: bool = False
    note: str = ""

    @classmethod
    def of(
        cls,
        caption: str,
        head: Sequence[str],
        rows: Sequence[Row],
        left: Sequence[int] = (0,),
        heat: bool = False,
        note: str = "",
    ) -> Table:
        """Texts become cells."""
        cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
        return cls(caption, tuple(head), cells, tuple(left), heat, note)


@dataclass(frozen=True)
class Picture:
    """A drawing. ``finding``: what is seen in it, in a sentence: its caption, and its text for those who do not see
    it. ``numbers``: the same as a table, folded away."""

    kind: ClassVar[str] = "picture"
    title: str
    finding: str
    drawing: Drawing
    numbers: Table | None = None


@dataclass(frozen=True)
class Pictures:
    """Drawings that stand side by side where there is room."""

    kind: ClassVar[str] = "pictures"
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Thumbnail:
    """One photo. ``data``: a JPEG as a data URI, None where there is no picture to show. ``right``: whether its answer
    is its label. ``alt``: what stands for the picture."""

    data: str | None
    width: int
    height: int
    alt: str
    title: str
    lines: tuple[str, ...]
    right: bool | None


@dataclass(frozen=True)
class Gallery:
    """Photos with their answers. ``note`` says why these."""

    kind: ClassVar[str] = "gallery"
    title: str
    note: str
    thumbnails: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Facts:
    """Names and what they are, such as settings; folded away under ``title``."""

    kind: ClassVar[str] = "facts"
    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Folded:
    """A table that is shown when it is asked for."""

    kind: ClassVar[str] = "folded"
    title: str
    table: Table


Part = Words | Cards | Table | Picture | Pictures | Gallery | Facts | Folded


@dataclass(frozen=True)
class Section:
    """Parts below a heading."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Chapter:
    """What is told of one thing: an evaluation, a run, a bundle, or several beside each other. ``about``: what it is,
    in a few words."""

    title: str
    about: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Report:
    """``made_of``: the files and folders that it tells of. ``by``: what wrote it."""

    title: str
    chapters: tuple[Chapter, ...]
    made_of: tuple[str, ...]
    by: str
