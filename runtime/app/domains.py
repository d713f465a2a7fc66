"""What `domains list` prints: a line for each domain of a bundle."""

import os
from typing import Any, Tuple, Union

from ..bundle.bundle import Bundle, read_domain
from ..errors import Da3Error
from .printing import printable

_CLASSES_SHOWN = 6


def describe_domains(bundle: Union[str, "os.PathLike[str]"]) -> str:
    """A line for each domain: its name first, then its classes, accuracy, block FLOPs run, threshold and backbone.

    A domain that cannot be read gets a line that says why, so that it can be found and removed.
    """
    with Bundle(bundle) as opened:
        rows = [_row(opened, name) for name in opened.domains]
    widths = [max([len(row[i]) for row in rows if i < len(row) - 1] or [0]) for i in range(6)]
    lines = ["  ".join("%-*s" % pair for pair in zip(widths, row)).rstrip() for row in rows]
    return "\n".join(lines) or "no domains yet"


def _row(bundle: Bundle, name: str) -> Tuple[str, ...]:
    try:
        domain = read_domain(bundle, name)
    except Da3Error as error:
        return name, "cannot be read: %s" % printable(str(error))
    shown = ", ".join(printable(c) for c in domain.classes[:_CLASSES_SHOWN])
    more = ", ..." if len(domain.classes) > _CLASSES_SHOWN else ""
    return (
        name,
        "%d classes: %s%s" % (len(domain.classes), shown, more),
        "accuracy %s" % _percent(domain.metrics.get("val_accuracy")),
        "block FLOPs run %s" % _percent(domain.metrics.get("flops_share")),
        "threshold %.3f" % domain.theta if domain.gated else "no gates",
        "%s at %d px" % (printable(bundle.manifest.arch), domain.size),
    )


def _percent(share: Any) -> str:
    """A pack's metrics are whatever its maker wrote."""
    return "%.1f %%" % (100 * share) if isinstance(share, (int, float)) else "-"
