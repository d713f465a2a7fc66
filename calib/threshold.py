"""The gate threshold that meets a budget: a domain of a bundle skips more or less, without retraining.

Raising theta closes gates. A closed gate changes what later blocks see, and so later gates; the share of FLOPs run
is therefore measured by running the bundle at each candidate, not read off one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from da3.calib.errors import CalibrationError
from da3.runtime import Bundle, Runtime
from da3.runtime.bundle import update_domain
from da3.runtime.errors import ImageError
from da3.runtime.images import evenly, list_labelled
from da3.runtime.schedule import flops_share

MOST_PHOTOS = 1000  # enough to know a share of FLOPs to about a point; every candidate threshold runs them all
SEARCH_STEPS = 12
BATCH = 16


class _Photos(NamedTuple):
    """Labelled photos. pixels: uint8 (N, S, S, 3); labels: (N,); unreadable: (path, reason) of those left out."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    unreadable: tuple[tuple[str, str], ...]


class _Thresholds(NamedTuple):
    """An interval of thresholds: at ``low`` every gate is open, at ``high`` every gate is closed."""

    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """One threshold, measured: accuracy (0..1) and mean share of block FLOPs run (1: all) on the photos."""

    theta: float
    accuracy: float
    flops_share: float


@dataclass(frozen=True)
class Calibration:
    """Before, after, and with every block on; ``photos`` of each; ``unreadable`` as (path, reason)."""

    domain: str
    before: Score
    after: Score
    all_on: Score
    photos: int
    unreadable: tuple[tuple[str, str], ...]


def calibrate(
    bundle: str | Path,
    domain: str,
    data: str | Path,
    target_skip: float,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Calibration:
    """Set ``domain``'s threshold so that it skips ``target_skip`` (0..1) of the block FLOPs on ``data``.

    ``data``: a folder with one subfolder per class, or its parent with ``val/``. Writes the new threshold into the
    bundle atomically. Raises CalibrationError if the domain has no trained gates or the target is out of reach.
    """
    if not 0.0 <= target_skip < 1.0:
        raise CalibrationError(f"--target-skip {target_skip:g}: use a share from 0 up to, not including, 1")
    with Runtime(Bundle(bundle, may_store=False)) as runtime:
        loaded = runtime.use(domain)
        if not loaded.gated:
            raise CalibrationError(
                f"domain {domain} was trained without gates: train it with --keep below 1 (such as 0.6), export again"
            )
        blocks = runtime.bundle.manifest.blocks
        fewest = np.array([[block.skip_flops is None for block in blocks]])
        least = float(flops_share(blocks, fewest)[0])
        if target_skip > 1 - least:
            raise CalibrationError(
                f"--target-skip {target_skip:g}: this backbone can skip {1 - least:.2f} of its block FLOPs at most"
            )
        photos = _load(runtime, _folder(data), loaded.classes, on_progress)

        def measure(theta: float, force_all_blocks: bool = False) -> Score:
            runtime.set_theta(domain, theta)
            return _score(runtime, photos, theta, force_all_blocks)

        total = SEARCH_STEPS + 2
        on_progress("measuring", 0, total)
        before = measure(loaded.theta)
        on_progress("measuring", 1, total)
        all_on = measure(loaded.theta, force_all_blocks=True)
        between = _bounds(runtime, photos.pixels)
        after = _search(measure, 1 - target_skip, between, before, lambda n: on_progress("measuring", n + 2, total))
    update_domain(
        bundle,
        domain,
        theta=after.theta,
        metrics={"val_accuracy": after.accuracy, "flops_share": after.flops_share},
    )
    return Calibration(domain, before, after, all_on, len(photos.labels), photos.unreadable)


def _search(
    measure: Callable[[float], Score],
    target: float,
    between: _Thresholds,
    start: Score,
    on_step: Callable[[int], None],
) -> Score:
    """Bisect theta for a share of FLOPs at or below ``target``; of such scores that were met, the closest."""
    low, high = between
    best = start if start.flops_share <= target else None
    for step in range(SEARCH_STEPS):
        score = measure((low + high) / 2)
        on_step(step + 1)
        if score.flops_share <= target:
            high = score.theta
            if best is None or score.flops_share >= best.flops_share:
                best = score
        else:
            low = score.theta
    return best if best is not None else measure(high)


def _bounds(runtime: Runtime, pixels: NDArray[np.uint8]) -> _Thresholds:
    """Thresholds below and above every gate logit of some photos, with all gates open and with all gates closed."""
    batch = runtime.preprocessing.normalise(pixels[: 4 * BATCH])
    names = [step.gate for step in runtime.bundle.manifest.plan if step.gate is not None]
    blocks = [s.block for s in runtime.bundle.manifest.plan if s.gate is not None and s.block is not None]
    found = []
    for runs in (True, False):
        _, values = runtime.trace(batch, names, gates=dict.fromkeys(blocks, runs))
        found += [values[name] for name in names]
    logits = np.concatenate(found)
    # Other photos, and other mixtures of gates, reach a little further than these.
    margin = 1.0 + 0.5 * float(logits.max() - logits.min())
    return _Thresholds(float(logits.min()) - margin, float(logits.max()) + margin)


def _score(runtime: Runtime, photos: _Photos, theta: float, force_all_blocks: bool) -> Score:
    pixels, labels = photos.pixels, photos.labels
    right, shares = 0, 0.0
    blocks = runtime.bundle.manifest.blocks
    for start in range(0, len(pixels), BATCH):
        batch = runtime.preprocessing.normalise(pixels[start : start + BATCH])
        result = runtime.run_batch(batch, force_all_blocks=force_all_blocks)
        right += int((result.logits.argmax(1) == labels[start : start + BATCH]).sum())
        shares += float(flops_share(blocks, result.blocks).sum())
    return Score(theta, right / len(labels), shares / len(labels))


def _folder(data: str | Path) -> str:
    root = Path(data).expanduser()
    return str(root / "val" if (root / "val").is_dir() else root)


def _load(
    runtime: Runtime, folder: str, classes: tuple[str, ...], on_progress: Callable[[str, int, int], None]
) -> _Photos:
    """At most MOST_PHOTOS, spread evenly over the folder."""
    found = evenly(list_labelled(folder, classes)[1], MOST_PHOTOS)
    pixels, labels, unreadable = [], [], []
    for done, (path, label) in enumerate(found, 1):
        try:
            pixels.append(runtime.preprocessing.load(path))
            labels.append(label)
        except ImageError as error:
            unreadable.append((path, str(error)))
        on_progress("reading photos", done, len(found))
    if not pixels:
        raise CalibrationError(f"none of the {len(found)} photos in {folder} can be read")
    return _Photos(np.stack(pixels), np.array(labels), tuple(unreadable))
