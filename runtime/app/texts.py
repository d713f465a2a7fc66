"""The texts of `da3 build`: what its options mean, and what it prints while and after it builds."""

import re
from typing import List, Tuple

from ..errors import BackendError
from ..system.sizes import render_bytes
from ..trt.build import BuildReport, Progress
from ..trt.store import render_batch


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
    """What was built, and what did not become as it was asked for."""
    text = "%d engines built, %d were there: %s, %s, %s at a time, %s, in %s\n%s" % (
        report.built,
        report.reused,
        report.device,
        report.options.precision,
        render_batch(report.options),
        render_bytes(report.nbytes),
        duration(report.seconds),
        report.folder,
    )
    notes: List[str] = []
    if report.options.precision != report.asked:
        notes.append(
            "GPUs of sm_%d have no %s: built in %s" % (report.device.sm, report.asked, report.options.precision)
        )
    for precision, names in sorted(report.fallen.items()):
        notes.append(
            "TensorRT did not build %s in %s: built in %s" % (", ".join(names), report.options.precision, precision)
        )
    if report.libraries:
        words = ", ".join(report.libraries)
        notes.append("TensorRT built %s with cuBLAS or cuDNN only, which take memory of their own" % words)
    if report.exceptions.linear:
        notes.append("TensorRT did not build with %s in its fast layout" % ", ".join(report.exceptions.linear))
    if report.exceptions.full:
        notes.append("TensorRT built with %s as float32 only" % ", ".join(report.exceptions.full))
    return text + "".join("\nnote: " + note for note in notes)


def duration(seconds: float) -> str:
    """12.3 s, 4 min 5 s."""
    return "%.1f s" % seconds if seconds < 60 else "%d min %d s" % (seconds // 60, seconds % 60)
