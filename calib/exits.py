"""``da3 calibrate``: where a domain's pictures may leave, so that a goal in the user's terms is met.

The engine answers each photo at every exit, once. All else is arithmetic on those answers: see da3.runtime.calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from da3.calib.errors import CalibrationError
from da3.calib.goals import Wanted, out_of_reach, wanted
from da3.calib.latency import MOST_PICTURES, time_to_exits
from da3.runtime import Bundle, Domain, Runtime
from da3.runtime.bundle import Manifest, exit_steps, read_domain, update_domain
from da3.runtime.calibration import (
    NOBODY,
    Answers,
    Choice,
    CrossFit,
    Exits,
    Outcome,
    Permuted,
    Point,
    calibration_error,
    choose,
    cross_fit,
    curve,
    decide,
    outcome,
    permuted,
)
from da3.runtime.errors import ImageError
from da3.runtime.images import evenly, list_labelled
from da3.runtime.records import ExitRule
from da3.runtime.schedule import flops_share, reached_blocks

MOST_PHOTOS = 1000
BATCH = 16

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Score:
    """What some exits give. ``accuracy``, ``flops_share``: 0 to 1. ``latency_ms``: mean, None if it was not measured.
    ``left``: share of the photos at each answer, the last one's being those that ran to the end."""

    accuracy: float
    flops_share: float
    latency_ms: float | None
    left: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """One exit, or the end.

    ``block``: the last one that runs before it (None: the end). ``threshold``: confidence above which a picture leaves
    there (None: nobody does). ``accuracy``: if every photo took this answer. ``error_before``, ``error_after``:
    expected calibration error without a temperature, and with one that was fitted to other photos.
    """

    block: int | None
    flops_share: float
    latency_ms: float | None
    accuracy: float
    threshold: float | None
    temperature: float
    error_before: float
    error_after: float


@dataclass(frozen=True)
class ExitCalibration:
    """What was chosen, and what it is worth.

    ``level``: see da3.runtime.calibration.choice. ``before``, ``after``, ``all_run``: on all
    photos, with the domain's exits as they were, as they are now, and if nobody left. ``checked``: exits chosen on one
    half of the photos and asked about the other, means over halvings. ``static``: accuracy of the best choice that does
    not look at the picture, at the FLOPs (or milliseconds) of ``checked``; ``dealt``: of the decisions of ``after``
    dealt to the photos at random. ``flops_curve``, ``latency_curve``: every level that was tried, costs being shares of
    block FLOPs and milliseconds. ``unreadable``: (path, reason) of each photo that was left out.
    """

    domain: str
    goal: str
    photos: int
    level: float
    before: Score
    after: Score
    all_run: Score
    checked: Score
    static: float
    dealt: Permuted
    answers: tuple[Answer, ...]
    flops_curve: tuple[Point, ...]
    latency_curve: tuple[Point, ...]
    unreadable: tuple[tuple[str, str], ...]


class _Asked(NamedTuple):
    """logits: float32 (N, K + 1, classes). labels: (N,). pixels: uint8 (n, S, S, 3), of the first few photos.
    unreadable: (path, reason)."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    unreadable: tuple[tuple[str, str], ...]


class _Measured(NamedTuple):
    """What the engine said. answers: costs are shares of the block FLOPs. times: float64 (K + 1,), milliseconds, None
    if they were not measured. before: the domain's exits as they were. blocks: the last one that runs before each
    exit."""

    domain: Domain
    answers: Answers
    times: NDArray[np.float64] | None
    before: Exits
    blocks: tuple[int, ...]
    unreadable: tuple[tuple[str, str], ...]


def calibrate(
    bundle: str | Path,
    domain: str,
    data: str | Path,
    *,
    max_drop: float | None = None,
    target_skip: float | None = None,
    latency_ms: float | None = None,
    measure_latency: bool = False,
    dry_run: bool = False,
    on_progress: Progress = lambda what, done, total: None,
) -> ExitCalibration:
    """Choose a domain's exits for one goal, and write them into the bundle, atomically, unless ``dry_run``.

    ``data``: a folder with one subfolder per class, or its parent with ``val/``: photos that were not trained on, of
    which at most MOST_PHOTOS are used, spread evenly. ``max_drop``: points of accuracy that may be lost against running
    everything. ``target_skip``: share of block FLOPs to save. ``latency_ms``: mean time of a picture on this device,
    without decoding; ``measure_latency`` measures it for other goals too. Raises CalibrationError, its message saying
    what can be had, where the goal cannot; then nothing is written.
    """
    asked = wanted(max_drop, target_skip, latency_ms)
    folder = _folder(data)
    measured = _measure(bundle, domain, folder, asked.timed or measure_latency, on_progress)
    answers = measured.answers
    if asked.timed and measured.times is not None:
        answers = answers._replace(costs=measured.times)
    choice = choose(answers, asked.goal)
    if not choice.met:
        raise out_of_reach(domain, asked, choice, float(answers.right()[:, -1].mean()))
    checked = cross_fit(answers, asked.goal)
    found = _report(domain, asked.words, measured, choice, checked)
    if not dry_run:
        update_domain(
            bundle,
            domain,
            metrics=_metrics(found.checked),
            exits=choice.exits.rules,
            temperature=choice.exits.temperatures[-1],
            calibration=_provenance(found, checked, asked, folder),
            measured=measured.domain,
        )
    return found


def reset(bundle: str | Path, domain: str) -> None:
    """Nobody leaves any more: the domain answers as before it was calibrated. Raises CalibrationError if it has no
    exits."""
    with Bundle(bundle, may_store=False) as opened:
        before = read_domain(opened, domain)
        _check_exits(before)
        share = float(_costs(opened.manifest, before)[-1])
    known = before.calibration.get("cross_fit", {}).get("all_blocks_accuracy")
    metrics = {"flops_share": share} if known is None else {"flops_share": share, "val_accuracy": known}
    rules = [ExitRule(None)] * len(before.exits)
    update_domain(bundle, domain, metrics=metrics, exits=rules, temperature=1.0, calibration={})


def _check_exits(domain: Domain) -> None:
    if domain.gated:
        raise CalibrationError(f"domain {domain.name} has gates of format 1, not exits: train and export it again")
    if not domain.exits:
        raise CalibrationError(f"domain {domain.name} was trained without exits: train and export it again")


def _folder(data: str | Path) -> Path:
    root = Path(data).expanduser()
    return root / "val" if (root / "val").is_dir() else root


def _measure(bundle: str | Path, name: str, folder: Path, timed: bool, on_progress: Progress) -> _Measured:
    with Runtime(Bundle(bundle, may_store=False)) as runtime:
        manifest = runtime.bundle.manifest
        domain = read_domain(runtime.bundle, name)
        _check_exits(domain)
        # No confidence is above 1: all run to the end, in the parts that they are run in when some leave.
        runtime.load(domain._replace(exits=tuple(rule._replace(threshold=NOBODY) for rule in domain.exits)))
        runtime.use(name)
        asked = _ask(runtime, domain, folder, on_progress)
        if not np.isfinite(asked.logits).all():
            raise CalibrationError(f"domain {name} gives numbers that are not finite: export it again")
        times = None
        if timed:
            times = time_to_exits(runtime, asked.pixels, len(domain.exits), lambda n, of: on_progress("timing", n, of))
    reached = reached_blocks(manifest.plan, len(manifest.blocks))
    return _Measured(
        domain=domain,
        answers=Answers(asked.logits, asked.labels, _costs(manifest, domain)),
        times=times,
        before=Exits(
            thresholds=tuple(rule.threshold for rule in domain.exits),
            temperatures=(*(rule.temperature for rule in domain.exits), domain.temperature),
        ),
        blocks=tuple(int(np.flatnonzero(row).max()) for row in reached[:-1]),
        unreadable=asked.unreadable,
    )


def _costs(manifest: Manifest, domain: Domain) -> NDArray[np.float64]:
    """(K + 1,): the share of the block FLOPs that a picture takes which leaves at each exit, and at the end."""
    reached = reached_blocks(manifest.plan, len(manifest.blocks))
    ran = reached.copy()
    ran[:, list(domain.closed)] = False
    return flops_share(manifest.blocks, ran, reached)


def _ask(runtime: Runtime, domain: Domain, folder: Path, on_progress: Progress) -> _Asked:
    """The current domain's answers at every exit and at the end."""
    exits = [step.outputs[0] for step in exit_steps(runtime.bundle.manifest.plan)]
    found = evenly(list_labelled(folder, domain.classes)[1], MOST_PHOTOS)
    labels: list[int] = []
    pixels: list[NDArray[np.uint8]] = []
    logits, unreadable = [], []
    for start in range(0, len(found), BATCH):
        batch = []
        for path, label in found[start : start + BATCH]:
            try:
                batch.append(runtime.preprocessing.load(path))
                labels.append(label)
            except ImageError as error:
                unreadable.append((path, str(error)))
        if batch:
            pixels.extend(batch[: MOST_PICTURES - len(pixels)])
            result, values = runtime.trace(runtime.preprocessing.normalise(np.stack(batch)), exits)
            logits.append(np.stack([*(values[exit] for exit in exits), result.logits], axis=1))
        on_progress("asking every exit", min(start + BATCH, len(found)), len(found))
    if len(labels) < 2:
        raise CalibrationError(
            f"{folder}: {len(labels)} of {len(found)} photos can be read; calibration needs 2, and about 100 to tell "
            f"much"
        )
    return _Asked(np.concatenate(logits), np.array(labels), np.stack(pixels), tuple(unreadable))


def _report(domain: str, goal: str, measured: _Measured, choice: Choice, checked: CrossFit) -> ExitCalibration:
    answers, times = measured.answers, measured.times
    temperatures = choice.exits.temperatures
    left = decide(answers.logits, choice.exits)
    ends = len(answers.costs)

    def score(result: Outcome | CrossFit) -> Score:
        shares = np.array(result.left)
        return Score(
            accuracy=result.accuracy,
            flops_share=float(shares @ answers.costs),
            latency_ms=None if times is None else float(shares @ times),
            left=result.left,
        )

    accuracies = answers.right().mean(axis=0)
    return ExitCalibration(
        domain=domain,
        goal=goal,
        photos=len(answers.labels),
        level=choice.level,
        before=score(outcome(answers, decide(answers.logits, measured.before))),
        after=score(outcome(answers, left)),
        all_run=score(outcome(answers, np.full(len(left), ends - 1))),
        checked=score(checked),
        static=checked.static,
        dealt=permuted(answers, left),
        answers=tuple(
            Answer(
                block=measured.blocks[number] if number < ends - 1 else None,
                flops_share=float(answers.costs[number]),
                latency_ms=None if times is None else float(times[number]),
                accuracy=float(accuracies[number]),
                threshold=(*choice.exits.thresholds, None)[number],
                temperature=temperatures[number],
                error_before=calibration_error(answers.logits[:, number], answers.labels),
                error_after=checked.errors[number],
            )
            for number in range(ends)
        ),
        flops_curve=tuple(curve(answers, temperatures)),
        latency_curve=() if times is None else tuple(curve(answers._replace(costs=times), temperatures)),
        unreadable=measured.unreadable,
    )


def _metrics(score: Score) -> dict[str, float]:
    """As training writes them."""
    return {"val_accuracy": score.accuracy, "flops_share": score.flops_share}


def _provenance(found: ExitCalibration, checked: CrossFit, asked: Wanted, folder: Path) -> dict[str, Any]:
    """How the exits came about, as training writes it too. cross_fit: of photos that had no part in it."""
    facts = checked.facts(found.checked.flops_share)
    if found.checked.latency_ms is not None:
        facts["latency_ms"] = found.checked.latency_ms
    return {
        "goal": asked.asked,
        "photos": found.photos,
        "folder": "/".join(folder.resolve().parts[-2:]),
        "cross_fit": facts,
    }
