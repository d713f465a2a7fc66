"""The chapter of one training run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from da3.runtime.calibration import best_static
from da3.runtime.system import duration
from da3.runtime.training import Row
from da3.toolchain.report import answers, figures
from da3.toolchain.report.document import (
    Card,
    Cards,
    Chapter,
    Facts,
    Folded,
    Part,
    Picture,
    Pictures,
    Section,
    Table,
    Words,
)
from da3.toolchain.report.evaluation_chapter import facts
from da3.toolchain.report.run_folder import Levels, RunFacts
from da3.toolchain.report.thumbnails import Thumbnails
from da3.toolchain.report.words import NONE, count, megabytes, number, percent, points, when
from da3.toolchain.runs import FoundRun

_OVERFITTED = 0.1  # training accuracy above validation accuracy that is worth a word


def run_chapter(found: RunFacts, title: str, thumbnails: Thumbnails, most: int) -> Chapter:
    """``title``: what to call the run. ``most``: photos of each kind that are shown."""
    run = found.run
    sections: list[Section | None] = [Section("Summary", (Words(_said(found)), Cards(_cards(run))))]
    if found.history:
        sections += [_curves(found.history), _resources(found.history)]
    if found.levels is not None:
        sections.append(_levels(found.levels, run))
    if found.judged is not None:
        judged = found.judged
        sections += [
            answers.right_and_wrong(judged),
            answers.confidence(judged),
            Section("Where photos leave", (answers.exits_table(judged),)) if judged.has_exits else None,
            answers.exits_and_blocks(judged),
            answers.photos(judged, thumbnails, most, " ".join(found.notes)),
        ]
    sections.append(Section("Settings and versions", tuple(_settings(run))))
    config = run.config
    about = f"training {config.domain}: {config.method} on {config.backbone} at {config.size} px"
    return Chapter(title, about, tuple(section for section in sections if section is not None))


def run_figures(runs: Sequence[FoundRun]) -> list[tuple[str, list[str]]]:
    """What runs took, a row for each figure."""
    return [
        ("time", [NONE if run.seconds is None else duration(run.seconds) for run in runs]),
        ("memory at most", [NONE if run.memory_mb is None else megabytes(run.memory_mb) for run in runs]),
        ("begun", [when(run.provenance.get("begun")) for run in runs]),
    ]


def _said(found: RunFacts) -> tuple[str, ...]:
    run, best = found.run, found.run.best
    done, asked = run.progress.epoch, run.config.epochs
    said = []
    if best is None:
        said.append(
            f"No epoch of {run.config.domain} is finished and good for deployment yet: {done} of {asked} are done."
        )
    else:
        said.append(
            f"{run.config.domain} reached {percent(best['val_accuracy'])} on its validation photos in epoch "
            f"{best['epoch']:.0f} of {asked}, every block that is not closed running."
        )
        if "kept_accuracy" in best:
            said.append(
                f"Where photos leave at exits it keeps {percent(best['kept_accuracy'])} with "
                f"{percent(best['kept_share'])} of the block FLOPs, on photos that had no part in choosing where."
            )
    if not run.finished:
        said.append(f"The run is not finished: {done} of {count(asked, 'epoch')} are done.")
    last = found.history[-1] if found.history else {}
    if "val_accuracy" in last and last["train_accuracy"] - last["val_accuracy"] > _OVERFITTED:
        gap = last["train_accuracy"] - last["val_accuracy"]
        said.append(
            f"Training photos are named right more often than validation photos ({points(gap)}): more photos, or more "
            f"varied ones, would help most."
        )
    if found.missing:
        said.append(found.missing)
    elif best is not None and found.judged is not None and int(best["epoch"]) != done:
        said.append(f"What follows of single photos is of the last epoch, {done}, not of the best.")
    return tuple(said)


def _cards(run: FoundRun) -> tuple[Card, ...]:
    deployed = run.accuracy if run.kept_accuracy is None else run.kept_accuracy
    cards = [
        Card("right, as deployed", percent(deployed), "validation photos"),
        Card("block FLOPs run", percent(run.flops_share), "of all blocks, on average"),
        Card("epochs", f"{run.progress.epoch} of {run.config.epochs}"),
    ]
    if run.seconds is not None:
        cards.append(Card("time", duration(run.seconds), "finished epochs"))
    if run.memory_mb is not None:
        cards.append(Card("memory at most", megabytes(run.memory_mb), "of the process; on a GPU, of its memory"))
    return tuple(cards)


def _curves(history: Sequence[Row]) -> Section:
    pictures = []
    for title, key, times, axis, unit in (
        ("Loss", "loss", 1, "loss", ""),
        ("Accuracy", "accuracy", 100, "right, %", " %"),
        ("Share of the block FLOPs", "share", 100, "block FLOPs run, %", " %"),
    ):
        curves = [
            figures.Line(name, [row["epoch"] for row in seen], [times * row[f"{part}_{key}"] for row in seen])
            for name, part in (("training", "train"), ("validation", "val"))
            if (seen := [row for row in history if f"{part}_{key}" in row])
        ]
        if not curves or (key == "share" and all(y == 100 for curve in curves for y in curve.ys)):
            continue  # nothing was closed: there is nothing to see
        ends = [_from_to(curve, unit) for curve in curves]
        finding = "; ".join(ends).capitalize() + "."
        pictures.append(Picture(title, finding, figures.lines(curves, "epoch", axis)))
    kept = [row for row in history if "kept_accuracy" in row]
    parts: list[Part] = [Pictures(tuple(pictures)), Folded("Every epoch", _epochs(history, bool(kept)))]
    return Section("Training curves", tuple(parts))


def _from_to(curve: figures.Line, unit: str) -> str:
    first, last = (f"{value:.3g}{unit}" for value in (curve.ys[0], curve.ys[-1]))
    return f"{curve.name} {last}" if len(curve.ys) == 1 else f"{curve.name} {first} at first, {last} in the end"


def _epochs(history: Sequence[Row], kept: bool) -> Table:
    head = ["epoch", "loss", "validation loss", "right", "validation right", "learning rate", "photos/s", "memory"]
    rows = []
    for row in history:
        cells = [
            f"{row['epoch']:.0f}",
            number(row.get("train_loss")),
            number(row.get("val_loss")),
            percent(row.get("train_accuracy")),
            percent(row.get("val_accuracy")),
            number(row.get("lr"), ".2e"),
            number(row.get("images_per_second"), ",.0f"),
            megabytes(row["memory_mb"]) if "memory_mb" in row else NONE,
        ]
        if kept:
            both = "kept_accuracy" in row
            cells.append(f"{percent(row['kept_accuracy'])} at {percent(row['kept_share'])} FLOPs" if both else NONE)
        rows.append(cells)
    return Table.of("Epochs", [*head, *(["with exits"] if kept else [])], rows)


def _resources(history: Sequence[Row]) -> Section:
    rows = [row for row in history if "memory_mb" in row and "seconds" in row]
    if not rows:
        return Section("Memory and speed", (Words(("The run has no figures of these.",)),))
    elapsed = list(accumulate(row["seconds"] for row in rows))
    unit, times = ("minutes", 1 / 60) if elapsed[-1] > 180 else ("seconds", 1.0)
    memory = [row["memory_mb"] for row in rows]
    grown = memory[-1] - memory[0]
    growth = f"{megabytes(grown)} more than after the first" if grown >= 1 else "no more than after the first"
    pictures = [
        Picture(
            "Memory over time",
            f"The process held {megabytes(memory[-1])} at most after the last epoch, {growth}.",
            figures.lines(
                [figures.Line("memory", [times * seconds for seconds in elapsed], memory, marked=True)],
                unit,
                "most held so far, MB",
                whole=False,
                from_zero=True,
            ),
        )
    ]
    rates = [(row["epoch"], row["images_per_second"]) for row in history if "images_per_second" in row]
    if rates:
        speeds = [rate for _, rate in rates]
        pictures.append(
            Picture(
                "Photos a second",
                f"Training went through {min(speeds):,.0f} to {max(speeds):,.0f} photos a second.",
                figures.lines(
                    [figures.Line("speed", [epoch for epoch, _ in rates], speeds, marked=True)],
                    "epoch",
                    "photos a second",
                    from_zero=True,
                ),
            )
        )
    return Section("Memory and speed", (Pictures(tuple(pictures)),))


def _levels(levels: Levels, run: FoundRun) -> Section:
    shares = [100 * point.cost for point in levels.curve]
    costs = [level.flops_share for level in levels.answers]
    accuracies = [level.accuracy for level in levels.answers]
    steps = [costs[0] + (costs[-1] - costs[0]) * i / 60 for i in range(61)]
    blind = [best_static(np.array(costs), np.array(accuracies), step) for step in steps]
    curves = [
        figures.Line("exits, at any level", shares, [point.accuracy for point in levels.curve]),
        figures.Line("blind to the picture", [100 * step for step in steps], blind),
    ]
    chosen, everything = levels.chosen, levels.answers[-1]
    spots = [figures.Spot("chosen", 100 * chosen.flops_share, chosen.accuracy, large=True)]
    spots.append(figures.Spot("every block", 100 * everything.flops_share, everything.accuracy))
    static = best_static(np.array(costs), np.array(accuracies), chosen.flops_share)
    cheapest = min(point.cost for point in levels.curve if point.accuracy >= everything.accuracy - 1e-9)
    if chosen.flops_share == everything.flops_share:
        finding = f"Nobody leaves early: every block gives {percent(everything.accuracy)}."
    else:
        finding = (
            f"The exits chosen give {percent(chosen.accuracy)} at {percent(chosen.flops_share)} of the block FLOPs; "
            f"every block gives {percent(everything.accuracy)}. Leaving without a look at the picture would give "
            f"{percent(static)} at that cost."
        )
    finding += f" The cheapest level that loses nothing on these photos runs {percent(cheapest)} of the block FLOPs."
    names = [*(f"exit {i + 1}, behind block {block}" for i, block in enumerate(levels.behind)), "the end"]
    if len(names) != len(levels.answers):
        names = [*(f"exit {i + 1}" for i in range(len(levels.answers) - 1)), "the end"]
    rows = [
        (name, percent(one.flops_share), percent(one.accuracy)) for name, one in zip(names, levels.answers, strict=True)
    ]
    picture = Picture(
        "Accuracy against FLOPs, for every level that exits can be set to",
        finding,
        figures.trade(curves, spots, "block FLOPs run, %"),
        Table.of("If every photo took one answer", ("answer of", "block FLOPs", "right"), rows),
    )
    note = "On the photos that the level was chosen on: the summary says what it is worth on others."
    return Section("What exits can give", (picture, Words((note,))))


def _settings(run: FoundRun) -> list[Facts]:
    told = dict(run.provenance)
    versions: dict[str, Any] = told.pop("versions", None) or {}
    photos = told.pop("photos", None) or {}
    start = told.pop("from", None) or {}
    settings = {k: v for k, v in run.settings().items() if not k.startswith("version of ")}
    found = [
        facts("Settings", {"folder": str(run.folder), "photos in": run.config.data, **settings}),
        facts("Where it comes from", {**told, **{f"photos {k}": v for k, v in photos.items()}, **start}),
        facts("Versions", versions),
    ]
    return [one for one in found if one.facts]
