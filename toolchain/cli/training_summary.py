"""The last words of ``da3 train``."""

from __future__ import annotations

from da3.toolchain.training.train import Result

NEAR_BUDGET = 0.05  # how far above --keep a share of block FLOPs may stay without a word


def training_summary(result: Result) -> str:
    """The last words of a finished run."""
    lines = []
    if result.best is not None:
        gated = f", running {result.best['val_share']:.0%} of the block FLOPs" if result.best["val_share"] < 1 else ""
        lines.append(
            f"best: {result.best['val_accuracy']:.1%} on the validation photos{gated} "
            f"(epoch {result.best['epoch']:.0f}); in {result.folder}"
        )
        if result.best["val_share"] > result.config.keep + NEAR_BUDGET:
            lines.append(
                f"that is more than --keep {result.config.keep:g} asked for: the run was too short for its gates to "
                f"settle. Train for more epochs, or lower the share with da3 calibrate after the export"
            )
    if result.unreadable:
        lines.append(f"{len(result.unreadable)} photos could not be read and were skipped")
    lines.append(f"next: da3 export --domain {result.folder.name}")
    return "\n".join(lines)
