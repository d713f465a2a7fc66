"""What `domains list` prints: a line for each domain of a bundle."""

import os
import sys
from typing import Any, List, Tuple, Union

from ..bundle.bundle import Bundle, read_domain
from ..errors import Da3Error, printable
from ..records import Domain
from .progress import ProgressLine

_CLASSES_SHOWN = 6


def describe_domains(bundle: Union[str, "os.PathLike[str]"]) -> Tuple[str, List[str]]:
    """A line for each domain: its name first, then its classes, accuracy, block FLOPs run, what decides on
    blocks, and its backbone.

    A domain that cannot be read gets a line that says why, so that it can be found and removed, and its name is in the
    list beside the text.
    """
    rows: List[Tuple[str, ...]] = []
    broken = []
    line = ProgressLine(sys.stderr)
    with Bundle(bundle) as opened:
        names = opened.domains
        for number, name in enumerate(names):
            line.draw("read %d of %d domains" % (number, len(names)))
            try:
                rows.append(_row(opened, name, read_domain(opened, name)))
            except Da3Error as error:
                rows.append((name, "cannot be read: %s" % printable(str(error))))
                broken.append(printable(name))
    line.end()
    widths = [max([len(row[i]) for row in rows if i < len(row) - 1] or [0]) for i in range(6)]
    lines = ["  ".join("%-*s" % pair for pair in zip(widths, row)).rstrip() for row in rows]
    return "\n".join(lines) or "no domains yet", broken


def _row(bundle: Bundle, name: str, domain: Domain) -> Tuple[str, ...]:
    shown = ", ".join(printable(c) for c in domain.classes[:_CLASSES_SHOWN])
    more = ", ..." if len(domain.classes) > _CLASSES_SHOWN else ""
    return (
        name,
        "%d classes: %s%s" % (len(domain.classes), shown, more),
        "accuracy %s" % _percent(domain.metrics.get("val_accuracy")),
        "block FLOPs run %s" % _percent(domain.metrics.get("flops_share")),
        _decisions(domain),
        "%s at %d px" % (printable(bundle.manifest.arch), domain.size),
    )


def _decisions(domain: Domain) -> str:
    if domain.gated:
        return "gates, threshold %.3f" % domain.theta
    used = sum(rule.threshold is not None for rule in domain.exits)
    exits = "%d of %d exits used" % (used, len(domain.exits)) if domain.exits else "no exits"
    closed = len(domain.closed)
    return "%s, %s" % (exits, "1 block closed" if closed == 1 else "%d blocks closed" % closed)


def _percent(share: Any) -> str:
    """A pack's metrics are whatever its maker wrote."""
    return "%.1f %%" % (100 * share) if isinstance(share, (int, float)) else "-"
