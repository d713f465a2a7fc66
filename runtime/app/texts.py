"""The texts of `da3 build`: what its options mean, and what it prints while and after it builds."""

import re
from typing import Tuple

from ..errors import BackendError
from ..system.sizes import render_bytes
from ..trt.build import BuildReport, Progress


def parse_batch(text: str) -> Tuple[int, int]:
    """ "1:8" -> (1, 8): tuned for one image, eight at most; "4" -> (4, 4)."""
    match = re.match(r"^(\d{1,6})(?::(\d{1,6}))?$", text)
    if match is None:
        raise BackendError("batch %r is neither a number nor two, such as 1:8" % text)
    return int(match.group(1)), int(match.group(2) or match.group(1))


def render_progress(step: Progress) -> str:
    """A line for an engine that is begun or done."""
    text = "[%*d/%d] %s" % (len(str(step.total)), step.number, step.total, step.name)
    if step.reused:
        return text + ": built before"
    if step.seconds is None:
        return text + " ..."
    return "%s: %s%s" % (text, duration(step.seconds), ", about %s to go" % duration(step.left) if step.left else "")


def render_report(report: BuildReport) -> str:
    """What was built."""
    text = "%d engines built, %d were there: %s, %s, 1 to %d images at a time, %s, in %s\n%s" % (
        report.built,
        report.reused,
        report.device,
        report.options.precision,
        report.options.batch[1],
        render_bytes(report.nbytes),
        duration(report.seconds),
        report.folder,
    )
    if report.linear:
        text += "\nnote: TensorRT did not build with %s in its fast layout" % ", ".join(report.linear)
    return text


def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s."""
    return "%.1f s" % seconds if seconds < 60 else "%d min %d s" % (seconds // 60, seconds % 60)
