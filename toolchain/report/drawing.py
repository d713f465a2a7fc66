"""matplotlib's figures as part of a page: their colours are the page's, light or dark, and their texts its letters."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

# What figures are drawn with, and what takes its place in the page: a variable of its style sheet.
INK, SOFT, RULE, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
_VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    RULE: "--rule",
    PAPER: "--paper",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES)},
}
# What tells series apart where colours cannot: dashes and marks, in the order of SERIES.
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.4, 1.2, 1.4)), (0, (3, 1)), (0, (8, 2)))
MARKS = ("o", "s", "^", "D", "v", "P")

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts stay texts: they can be searched, copied and read aloud
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "text.parse_math": False,  # $ in a class's name begins no formula
}


@dataclass(frozen=True)
class Svg:
    """A figure as SVG. ``root``: its tree, without name spaces, sizes and ids that nothing refers to."""

    root: ElementTree.Element

    def markup(self, prefix: str) -> str:
        """The tree as text; what is defined in it is called ``prefix`` and something."""
        names = {name: f"{prefix}{i}" for i, name in enumerate(_defined(self.root))}

        def renamed(text: str) -> str:
            return re.sub(r"#([^)]+)", lambda found: f"#{names.get(found[1], found[1])}", text)

        copy = ElementTree.fromstring(ElementTree.tostring(self.root))
        for element in copy.iter():
            for key, value in list(element.attrib.items()):
                if key == "id":
                    element.set(key, names[value])
                elif key in ("href", "clip-path"):
                    element.set(key, renamed(value))
        return ElementTree.tostring(copy, encoding="unicode")


def draw(paint: Callable[[Any], None], width: float = 4.1, height: float = 2.9) -> Svg:
    """``paint(figure)`` draws on a figure of that many inches, whatever the user's own settings of matplotlib are."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that its own fonts lack are the page's to show
        matplotlib.rcdefaults()
        for name, value in _STYLE.items():
            matplotlib.rcParams[name] = value
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Svg(_of_the_page(ElementTree.fromstring(data.getvalue())))


def _of_the_page(root: ElementTree.Element) -> ElementTree.Element:
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
        for key in list(element.attrib):
            value = element.attrib.pop(key)
            key = key.split("}")[-1]
            element.set(key, _themed(value) if key == "style" else value)
    for parent in list(root.iter()):
        for child in list(parent):
            # A style sheet within a figure would be one for the whole page.
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("aria-hidden", "true")  # its texts make no sense one by one: the page has a sentence for it
    used = {name for element in root.iter() for name in _referred_to(element)}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        if element.tag not in ("text", "tspan"):
            element.text = None
        element.tail = None
        if "d" in element.attrib:
            element.set("d", " ".join(element.attrib["d"].split()))
    return root


def _themed(style: str) -> str:
    """The style with the page's colours, and without matplotlib's fonts."""
    style = re.sub(
        r"#[0-9a-f]{6}", lambda found: f"var({_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0], style
    )
    return re.sub(r"font-family: [^;]*;? ?", "", style)


def _referred_to(element: ElementTree.Element) -> list[str]:
    return [found for key in ("href", "clip-path") for found in re.findall(r"#([^)]+)", element.get(key, ""))]


def _defined(root: ElementTree.Element) -> list[str]:
    return [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
