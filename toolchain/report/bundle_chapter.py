"""The chapter of a bundle, or of a pack: its backbone, and what is written down of each of its domains."""

from __future__ import annotations

from typing import Any

from da3.runtime.bundle import Manifest
from da3.toolchain.report import figures
from da3.toolchain.report.bundle_folder import BundleFacts, DomainFacts
from da3.toolchain.report.document import Card, Cards, Chapter, Folded, Part, Picture, Pictures, Section, Table, Words
from da3.toolchain.report.evaluation_chapter import facts
from da3.toolchain.report.words import (
    NONE,
    count,
    kilobytes,
    listed,
    milliseconds,
    number,
    percent,
    plain,
    points,
    when,
)


def bundle_chapter(found: BundleFacts, title: str) -> Chapter:
    """``title``: what to call the bundle."""
    sections = [Section("Summary", (Words(_said(found)), Cards(_cards(found))))]
    if len(found.domains) > 1:
        sections.append(Section("Domains", (_domains(found.domains),)))
    if found.manifest is not None:
        sections.append(Section("Backbone", tuple(_backbone(found.manifest))))
    sections += [_domain(one, found.manifest, len(found.domains) > 1) for one in found.domains]
    arch = "" if found.manifest is None else f", {found.manifest.arch} at {found.manifest.preprocessing.size} px"
    return Chapter(title, f"{count(len(found.domains), 'domain')}{arch}", tuple(sections))


def _said(found: BundleFacts) -> tuple[str, ...]:
    said = []
    if found.manifest is not None:
        manifest, names = found.manifest, [one.domain.name for one in found.domains]
        said.append(
            f"One {manifest.arch} at {manifest.preprocessing.size} px, {count(len(manifest.blocks), 'block')}, serves "
            f"{count(len(found.domains), 'domain')}: {listed(names) or 'none yet'}."
        )
    for one in found.domains:
        accuracy, share = _metric(one, "val_accuracy"), _metric(one, "flops_share")
        if accuracy is None:
            said.append(
                f"{one.domain.name}: {count(len(one.domain.classes), 'class', 'classes')}; its accuracy was not "
                f"written down."
            )
            continue
        every = _number(one.cross_fit.get("all_blocks_accuracy"))
        beside = f" Every block running gives {percent(every)}." if every is not None else ""
        said.append(
            f"{one.domain.name}: {percent(accuracy)} of its validation photos are named right with {percent(share)} of "
            f"the block FLOPs.{beside}"
        )
    said += [f"Not told of: {problem}." for problem in found.problems]
    return tuple(said)


def _cards(found: BundleFacts) -> tuple[Card, ...]:
    cards = [Card("domains", f"{len(found.domains)}")]
    if found.manifest is not None:
        backbone = sum(e.bytes for name, e in found.manifest.files.items() if name.startswith("backbone/"))
        cards.append(Card("backbone", kilobytes(backbone), "shared by all domains"))
    if found.domains:
        sizes = [one.nbytes for one in found.domains]
        cards.append(
            Card("a domain", kilobytes(sum(sizes) / len(sizes)), "weights, on average" if len(sizes) > 1 else "weights")
        )
    if len(found.domains) == 1:
        one = found.domains[0]
        cards += [
            Card("right", percent(_metric(one, "val_accuracy")), "validation photos"),
            Card("block FLOPs run", percent(_metric(one, "flops_share")), "of all blocks, on average"),
        ]
    return tuple(cards)


def _domains(those: tuple[DomainFacts, ...]) -> Table:
    rows = [
        (
            one.domain.name,
            f"{len(one.domain.classes)}",
            percent(_metric(one, "val_accuracy")),
            percent(_number(one.cross_fit.get("all_blocks_accuracy"))),
            percent(_metric(one, "flops_share")),
            f"{len(one.domain.closed)}",
            kilobytes(one.nbytes),
            when(one.domain.provenance.get("begun"))[:10],
        )
        for one in those
    ]
    head = ("domain", "classes", "right", "every block", "FLOPs run", "closed blocks", "weights", "trained")
    return Table.of("Domains", head, rows)


def _backbone(manifest: Manifest) -> list[Part]:
    files = [(name, kilobytes(entry.bytes)) for name, entry in sorted(manifest.files.items())]
    total = sum(block.flops for block in manifest.blocks)
    prep = manifest.preprocessing
    told: dict[str, Any] = {
        "architecture": manifest.arch,
        "sha256": manifest.backbone_sha256,
        "input": f"{prep.size} px, crop {prep.crop:g}",
        "mean": [f"{v:g}" for v in prep.mean],
        "standard deviation": [f"{v:g}" for v in prep.std],
        "block FLOPs": f"{total / 1e6:,.1f} M a photo",
        "written by": manifest.created_by,
        **{f"adaptor {name}": value for name, value in manifest.adaptor.items()},
    }
    return [
        facts("Backbone", told),
        Folded("Files", Table.of("Files of the backbone and the adaptors", ("file", "size"), files)),
    ]


def _domain(one: DomainFacts, manifest: Manifest | None, named: bool) -> Section:
    domain = one.domain
    pictures = []
    if one.cross_fit and one.costs:
        trade = _trade(one)
        if trade is not None:
            pictures.append(trade)
    if manifest is not None and manifest.blocks:
        pictures.append(_blocks(one, manifest))
    parts: list[Part] = [Pictures(tuple(pictures))] if pictures else []
    if domain.exits:
        parts.append(_exits(one))
    shut = listed([str(block) for block in domain.closed], 20) or "none"
    parts.append(
        facts(
            "Domain",
            {
                "classes": list(domain.classes),
                "closed blocks": shut,
                "temperature of the last answer": f"{domain.temperature:.3f}",
                "weights": kilobytes(one.nbytes),
                "backbone sha256": domain.backbone_sha256,
                **{name: plain(value) for name, value in domain.metrics.items()},
                "exits chosen for": _goal(domain.calibration),
            },
        )
    )
    parts += _origin(domain.provenance)
    return Section(f"Domain {domain.name}" if named else "Exits, blocks and settings", tuple(parts))


def _goal(calibration: dict[str, Any]) -> str | None:
    goal = calibration.get("goal")
    if not isinstance(goal, dict):
        return None
    told = ", ".join(f"{str(name).replace('_', ' ')} {plain(value)}" for name, value in goal.items())
    return f"{told}; on {plain(calibration.get('photos'))} photos"


def _origin(told: dict[str, Any]) -> list[Part]:
    if not told:
        return [Words(("Where the domain comes from was not written down.",))]
    inner = {key: told[key] for key in ("settings", "versions") if isinstance(told.get(key), dict)}
    flat: dict[str, Any] = {}
    for name, value in told.items():
        if name in inner:
            continue
        flat.update({f"{name} {k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value})
    found: list[Part] = [facts("Where it comes from", flat)]
    return found + [facts(name.capitalize(), value) for name, value in inner.items()]


def _trade(one: DomainFacts) -> Picture | None:
    """What is written down of its exits: as they are, every block, and the best choice that is blind to the picture."""
    found = one.cross_fit
    accuracy, share = _number(found.get("accuracy")), _number(found.get("flops_share"))
    every, static = _number(found.get("all_blocks_accuracy")), _number(found.get("best_static_accuracy"))
    if accuracy is None or share is None or every is None:
        return None
    spots = [
        figures.Spot("with exits", 100 * share, accuracy, large=True),
        figures.Spot("every block", 100 * one.costs[-1], every),
    ]
    rows = [("with exits", percent(share), percent(accuracy)), ("every block", percent(one.costs[-1]), percent(every))]
    blind = ""
    if static is not None:
        spots.append(figures.Spot("blind choice", 100 * share, static))
        rows.append(("best choice blind to the picture", percent(share), percent(static)))
        blind = f" The best choice that does not look at the picture: {percent(static)} at the same cost."
    latency = _number(found.get("latency_ms"))
    time = f" A photo takes {milliseconds(latency)} on average where it was calibrated." if latency is not None else ""
    return Picture(
        "Accuracy against FLOPs",
        f"With exits {percent(accuracy)} at {percent(share)} of the block FLOPs, {points(accuracy - every)} from every "
        f"block."
        f"{blind}{time} Measured on photos that had no part in choosing the exits.",
        figures.trade((), spots, "block FLOPs run, %"),
        Table.of("What the exits are worth", ("", "block FLOPs", "right"), rows),
    )


def _blocks(one: DomainFacts, manifest: Manifest) -> Picture:
    closed, flops = one.domain.closed, [block.flops / 1e6 for block in manifest.blocks]
    total = sum(flops) or 1.0
    where = [
        f"exit {i} behind block {b} ({percent(c, 0)})"
        for i, (b, c) in enumerate(zip(one.behind, one.costs, strict=False), 1)
    ]
    told = [
        f"{count(len(closed), 'block')} closed: {listed([str(b) for b in closed], 12)}"
        if closed
        else "No block is closed"
    ]
    if where:
        told.append(f"by block FLOPs: {', '.join(where)}")
    rows = [
        (
            f"{i}",
            block.name,
            f"{block.flops / 1e6:,.1f} M",
            percent(block.flops / 1e6 / total),
            "closed" if i in closed else "runs",
        )
        for i, block in enumerate(manifest.blocks)
    ]
    return Picture(
        "Where the work is",
        "; ".join(told) + ".",
        figures.blocks(flops, closed, one.behind if one.domain.exits else (), "FLOPs, M"),
        Table.of("Blocks", ("block", "name", "FLOPs", "share", "for this domain"), rows, left=(0, 1, 4)),
    )


def _exits(one: DomainFacts) -> Table:
    left, errors = one.cross_fit.get("left"), one.cross_fit.get("calibration_errors")
    rows = []
    rules = [*one.domain.exits, None]
    for i, rule in enumerate(rules):
        place = "the end" if rule is None else f"exit {i + 1}"
        above = NONE if rule is None else "nobody leaves" if rule.threshold is None else f"{rule.threshold:.4f}"
        rows.append(
            (
                place,
                f"{one.behind[i]}" if i < len(one.behind) else NONE,
                above,
                percent(_nth(left, i)),
                percent(one.costs[i]) if i < len(one.costs) else NONE,
                number(one.domain.temperature if rule is None else rule.temperature),
                percent(_nth(errors, i)),
            )
        )
    head = (
        "left at",
        "behind block",
        "when surer than",
        "of the photos",
        "FLOPs run",
        "temperature",
        "calibration error",
    )
    return Table.of("Exits", head, rows)


def _nth(values: Any, index: int) -> float | None:
    return _number(values[index]) if isinstance(values, list) and index < len(values) else None


def _metric(one: DomainFacts, name: str) -> float | None:
    return _number(one.domain.metrics.get(name))


def _number(value: Any) -> float | None:
    """What a pack's maker wrote may be anything; a share is a number."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known and 0 <= value <= 1e6 else None
