"""The last words of ``da3 train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from da3.toolchain.learning import Learnt
    from da3.toolchain.training.train import Result

NEAR_BUDGET = 0.05  # how far above --keep a share of block FLOPs may stay without a word


def training_summary(result: Result | Learnt) -> str:
    """The last words of a finished run."""
    lines = []
    if result.best is not None:
        best = result.best
        closed = f", running {best['val_share']:.0%} of the block FLOPs" if best["val_share"] < 1 else ""
        lines.append(
            f"best: {best['val_accuracy']:.1%} on the validation photos{closed} "
            f"(epoch {best['epoch']:.0f}); in {result.folder}"
        )
        if "kept_share" in best:
            lines.append(
                f"with sure photos leaving early: {best['kept_accuracy']:.1%} at {best['kept_share']:.0%} of the block "
                f"FLOPs, each half of the photos by what was chosen on the other"
            )
        if best.get("kept_share", best["val_share"]) > result.config.keep + NEAR_BUDGET:
            lines.append(
                f"that is more than --keep {result.config.keep:g} asked for: the first exit costs more, or the run was "
                f"too short to close blocks. Train for more epochs, or with a higher --keep"
            )
    lines.append(_memory(result))
    if result.unreadable:
        lines.append(f"{len(result.unreadable)} photos could not be read and were skipped")
    lines.append(f"next: da3 export --domain {result.folder.name}")
    return "\n".join(lines)


def _memory(result: Result | Learnt) -> str:
    """The peak, and whether a budget held."""
    words = f"memory: {result.peak / 1e6:,.0f} MB at most, from start to end"
    if result.budget is None:
        return words
    budget = f"--memory-budget {result.budget / 1e6:,.0f} MB"
    if result.peak <= result.budget:
        return f"{words}, within {budget}"
    return f"{words}: more than {budget}, which a short run on the largest photos kept to; lower it, or --workers 1"
