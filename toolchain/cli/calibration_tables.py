"""What ``da3 calibrate`` prints: exits before and after, what is unknown, or INT8 against float32."""

from __future__ import annotations

from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from da3.calib import ExitCalibration, Int8Calibration, Score, UnknownCalibration
from da3.runtime.calibration import NOBODY

FEW = 100  # photos, below which figures jump


def answer_name(block: int | None) -> str:
    """An exit by the last block that runs before it."""
    return "the end" if block is None else f"block {block}"


def calibration_table(done: ExitCalibration) -> Table:
    """What the domain's exits give, before and after, and what a choice that is blind to the picture would."""
    ms = ["mean ms"] if done.after.latency_ms is not None else []
    title = f"{escape(done.domain)}, {done.photos} photos: {done.goal}"
    table = Table("", "accuracy", "block FLOPs run", *ms, title=title)

    def row(name: str, score: Score) -> None:
        time = [] if score.latency_ms is None else [f"{score.latency_ms:.2f}"]
        table.add_row(name, f"{score.accuracy:.1%}", f"{score.flops_share:.1%}", *time)

    row("nobody leaves", done.all_run)
    row("before", done.before)
    row("after", done.after)
    row("after, checked on other photos", done.checked)
    table.add_section()
    row("best choice blind to the picture", replace(done.checked, accuracy=done.static))
    row("the same decisions, dealt at random", replace(done.after, accuracy=done.dealt.accuracy))
    return table


def answers_table(done: ExitCalibration) -> Table:
    """Who leaves where, and what each answer costs and is worth if every photo takes it."""
    ms = ["ms"] if done.after.latency_ms is not None else []
    last = ["accuracy", "temperature", "ECE before", "ECE after"]
    table = Table("answer after", "above", "leave there", "block FLOPs", *ms, *last)
    for answer, share in zip(done.answers, done.after.left, strict=True):
        table.add_row(
            answer_name(answer.block),
            "-" if answer.threshold is None else f"{answer.threshold:.3f}",
            f"{share:.1%}",
            f"{answer.flops_share:.1%}",
            *([] if answer.latency_ms is None else [f"{answer.latency_ms:.2f}"]),
            f"{answer.accuracy:.1%}",
            f"{answer.temperature:.2f}",
            f"{answer.error_before:.3f}",
            f"{answer.error_after:.3f}",
        )
    return table


def notes(done: ExitCalibration, dry_run: bool) -> list[str]:
    """Sentences below the tables."""
    said = []
    if done.level >= NOBODY:
        said.append("nobody leaves: the goal is not met, or nothing is gained, with anybody leaving")
    if done.photos < FEW:
        said.append(f"{done.photos} photos are few: expect other figures of new photos, and give {FEW} or more")
    if done.unreadable:
        said.append(f"{len(done.unreadable)} photos could not be read: {done.unreadable[0][1]}")
    if dry_run:
        said.append("dry run: nothing was changed")
    return said


def int8_table(done: Int8Calibration) -> Table:
    """INT8 against float32, by domain."""
    table = Table(
        "domain",
        "photos compared",
        "same answer",
        "same decisions",
        "largest difference of a logit",
        title=f"INT8: {done.quantised} of {done.values} inputs of convolutions, measured on {done.measured} photos",
    )
    for row in done.agreements:
        difference = f"{row.logit_error:.2f} (largest: {row.logit_largest:.1f})"
        decisions = "-" if row.same_decisions is None else f"{row.same_decisions:.1%}"
        table.add_row(row.domain, str(row.photos), f"{row.same_answer:.1%}", decisions, difference)
    if done.unreadable:
        table.caption = f"{len(done.unreadable)} photos could not be read: {escape(done.unreadable[0][1])}"
    return table


def unknown_lines(done: UnknownCalibration, dry_run: bool) -> list[str]:
    """What a domain takes for unknown from now on."""
    fitted, held_out = done.familiar.photos
    share = f"{escape(done.domain)}: of its own photos {done.familiar.limit:.1%} are said to be unknown"
    how = f"fitted to {fitted}, calibrated on {held_out} others"
    lines = [f"{share}; {how}{' (nothing is changed: --dry-run)' if dry_run else ''}"]
    if held_out < FEW:
        lines.append(f"{held_out} photos are few: expect more or fewer by some points on new ones")
    lines += [f"left out: {escape(path)}: {escape(reason)}" for path, reason in done.unreadable]
    return lines
