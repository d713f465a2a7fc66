"""Evaluations as `da3 evaluate --json` wrote them, read back: docs/evaluate.md has the record.

The file may be anybody's. What a report computes with is checked, so that a wrong file ends in one line; scores are
computed anew from the photos' rows, by the one piece of code that there is for them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from da3.runtime.bundle import Object
from da3.runtime.errors import BundleError
from da3.runtime.evaluation import Answered, Evaluation, LabelledPhotos, Settings, open_record, score
from da3.runtime.records import Domain, ExitRule
from da3.toolchain.errors import ReportError
from da3.toolchain.report.judged import Judged, Timing, Unknown

_MOST_CLASSES = 4_000  # a matrix of labels by answers has the square of them


def read_evaluations(path: str) -> list[Judged]:
    """Every evaluation in the file. Raises ReportError, or DataError for a file that is none."""
    root = open_record(path)
    try:
        versions = {"written": root.optional("created"), **_dict(root.optional("versions"))}
        return [_judged(one, versions) for one in root.objects("evaluations")]
    except BundleError as error:
        raise ReportError(f"{error}: evaluate again with da3 evaluate --json") from error


def _judged(one: Object, versions: dict[str, Any]) -> Judged:
    domain, bundle = _domain(one.object("domain")), one.object("bundle")
    settings = _settings(one.object("settings"), bundle)
    data = one.object("data")
    rows = one.objects("photos")
    known = {name: index for index, name in enumerate(domain.classes)}
    answered = tuple(_answered(row, known, len(domain.exits)) for row in rows)
    if not answered:
        raise BundleError(f"{one.where}: photos is empty")
    names = tuple(bundle.texts("blocks"))
    unreadable = tuple((entry.text("path"), entry.text("error")) for entry in data.objects("unreadable"))
    evaluation = Evaluation(
        domain=domain,
        arch=bundle.text("backbone"),
        settings=settings,
        photos=LabelledPhotos(data.text("source"), data.text("folder"), domain.classes, ()),
        answered=answered,
        unreadable=unreadable,
        blocks=_blocks(one, len(domain.classes), len(names)),
        block_names=names,
        batch_s=tuple(row.engine_s for row in answered),
        seconds=1.0,
        decode_s=0.0,
    )
    told = {key: data.optional(key) for key in ("source", "folder", "photos", "sha256")}
    return Judged(
        evaluation=evaluation,
        scores=score(evaluation),
        folder=data.text("folder"),
        nbytes=tuple(_size(row) for row in rows),
        timing=_timing(one.object("timing"), settings.batch_size),
        facts=(
            ("Settings", {"bundle": settings.bundle, "backbone": bundle.text("backbone"), **one.plain("settings")}),
            ("Domain", _told_of(domain, one.object("domain"), bundle)),
            ("Photos", told),
            ("Versions", versions),
        ),
        unknown=None if one.optional("unknown") is None else _unknown(one.object("unknown"), len(answered)),
    )


def _unknown(told: Object, photos: int) -> Unknown:
    unknown = _within(told, "photos", 0, photos)
    foreign = None
    if told.optional("foreign") is not None:
        others = told.object("foreign")
        asked = _within(others, "photos", 1, 1 << 40)
        foreign = (asked, _within(others, "known", 0, asked), _share(others, "area_under_curve"))
    return Unknown(_share(told, "limit"), unknown, _within(told, "correct", 0, unknown), foreign)


def _domain(told: Object) -> Domain:
    classes = tuple(told.texts("classes"))
    if not classes or len(set(classes)) != len(classes) or len(classes) > _MOST_CLASSES:
        raise BundleError(f"{told.where}: classes must be different names, 1 to {_MOST_CLASSES:,}")
    return Domain(
        name=told.text("name"),
        classes=classes,
        backbone_sha256="",
        size=0,
        adaptor={},
        metrics={},
        weights={},
        closed=tuple(block for block in told.items("closed") if isinstance(block, int)),
        exits=tuple(
            ExitRule(_optional(entry, "threshold"), _number(entry, "temperature")) for entry in told.objects("exits")
        ),
        temperature=_number(told, "temperature"),
    )


def _told_of(domain: Domain, told: Object, bundle: Object) -> dict[str, Any]:
    thresholds = [rule.threshold for rule in domain.exits]
    return {
        "name": domain.name,
        "sha256": told.optional("sha256"),
        "backbone sha256": bundle.optional("backbone_sha256"),
        "input": f"{bundle.integer('size')} px",
        "thresholds of the exits": ["nobody leaves" if t is None else f"{t:.4f}" for t in thresholds],
        "temperatures": [f"{t:.3f}" for t in (*(rule.temperature for rule in domain.exits), domain.temperature)],
        "closed blocks": list(domain.closed),
    }


def _settings(told: Object, bundle: Object) -> Settings:
    return Settings(
        bundle=bundle.text("path"),
        backend=told.text("backend"),
        precision=None if told.optional("precision") is None else told.text("precision"),
        threads=None,
        batch_size=told.integer("batch_size"),
        workers=told.integer("workers"),
        force_all_blocks=told.flag("force_all_blocks"),
    )


def _answered(row: Object, known: dict[str, int], exits: int) -> Answered:
    def label(key: str) -> int:
        name = row.text(key)
        if name not in known:
            raise BundleError(f"{row.where}: {key} {name!r} is none of the domain's classes")
        return known[name]

    left = None if row.optional("exit") is None else _within(row, "exit", 0, exits - 1)
    return Answered(
        path=row.text("path"),
        label=label("label"),
        answer=label("answer"),
        probability=_share(row, "probability"),
        label_probability=_share(row, "label_probability"),
        rank=_within(row, "rank", 1, len(known)),
        exit=left,
        blocks_run=_within(row, "blocks_run", 0, 1 << 20),
        flops_share=_share(row, "flops_share"),
        engine_s=_number(row, "engine_ms") / 1e3,
    )


def _blocks(one: Object, classes: int, blocks: int) -> Any:
    """int64 (classes, blocks): of how many photos of a class each block ran."""
    told = one.objects("classes")
    if len(told) != classes:
        raise BundleError(f"{one.where}: classes must have an entry for each of the domain's {classes} classes")
    counts = np.zeros((classes, blocks), np.int64)
    for index, entry in enumerate(told):
        shares = entry.items("blocks")
        if not shares:
            continue
        if len(shares) != blocks or not all(_is_share(share) for share in shares):
            raise BundleError(f"{entry.where}: blocks must hold a share, 0 to 1, for each of the {blocks} blocks")
        counts[index] = np.rint(np.array(shares, np.float64) * _within(entry, "photos", 0, 1 << 40))
    return counts


def _timing(told: Object, batch_size: int) -> Timing:
    percentiles = told.object("batch_ms")
    return Timing(
        batch_ms={name: _number(percentiles, name) for name in ("p50", "p90", "p99")},
        batch_size=batch_size,
        photo_ms=_number(told, "photo_ms"),
        images_per_second=_number(told, "images_per_second"),
        engine_images_per_second=_number(told, "engine_images_per_second"),
        beside_decoding=told.flag("beside_decoding"),
    )


def _size(row: Object) -> int | None:
    return None if row.optional("bytes") is None else _within(row, "bytes", 0, 1 << 60)


def _optional(told: Object, key: str) -> float | None:
    return None if told.optional(key) is None else _number(told, key)


def _number(told: Object, key: str) -> float:
    value = float(told.number(key))
    if not math.isfinite(value) or value < 0:
        raise BundleError(f"{told.where}: {key} must be a finite number, not below 0")
    return value


def _share(told: Object, key: str) -> float:
    value = _number(told, key)
    if not _is_share(value):
        raise BundleError(f"{told.where}: {key} must be from 0 to 1, not {value:g}")
    return min(1.0, value)


def _is_share(value: Any) -> bool:
    # Sums of float32 may end a little above 1.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1 + 1e-6


def _within(told: Object, key: str, low: int, high: int) -> int:
    value = int(told.integer(key))
    if not low <= value <= high:
        raise BundleError(f"{told.where}: {key} must be from {low} to {high}, not {value}")
    return value


def _dict(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}
