"""What `domains info` prints: all that there is to know of one domain, and where it comes from."""

import json
import os
from typing import Any, Dict, List, Optional, Tuple

from ..bundle.bundle import Bundle, read_domain
from ..bundle.domain import read_pack
from ..errors import printable
from ..records import Domain, Path, Step
from ..system.sizes import render_bytes

_UNKNOWN = "not written down: made by a da3 from before there was provenance"


def domain_info(bundle: Path, name: str) -> Dict[str, Any]:
    """A domain of the bundle, or of the pack of that name, as JSON has it. Raises Da3Error where there is none."""
    if name.endswith(".da3") and os.path.isfile(name):
        return _info(read_pack(name), None, ())
    with Bundle(bundle) as opened:
        domain = read_domain(opened, name)
        manifest = opened.manifest
        places = _places(manifest.plan)
        return _info(domain, manifest.arch, places)


def render_info(info: Dict[str, Any]) -> str:
    """The same for people: a line for each fact, its name first."""
    rows: List[Tuple[str, str]] = [
        ("domain", info["name"]),
        ("classes", "%d: %s" % (len(info["classes"]), ", ".join(info["classes"]))),
        ("backbone", "%s%s..., images of %d px" % (_named(info["arch"]), info["backbone_sha256"][:12], info["size"])),
        ("size", "%s of weights" % render_bytes(info["weights_bytes"])),
    ]
    rows += [
        (_METRICS.get(key, key[:_LONGEST_NAME]), _metric(key, value)) for key, value in sorted(info["metrics"].items())
    ]
    rows += [("exit", _exit(exit)) for exit in info["exits"]]
    closed = ", ".join(str(block) for block in info["closed_blocks"])
    rows.append(("closed blocks", closed or "none"))
    rows += _origin(info["provenance"])
    width = max(len(name) for name, _ in rows)
    return "\n".join("%-*s  %s" % (width, printable(name), printable(text)) for name, text in rows)


def _info(domain: Domain, arch: Optional[str], places: Tuple[int, ...]) -> Dict[str, Any]:
    exits = [
        {
            "behind_block": places[i] if i < len(places) else None,
            "threshold": rule.threshold,
            "temperature": rule.temperature,
        }
        for i, rule in enumerate(domain.exits)
    ]
    return {
        "name": domain.name,
        "classes": list(domain.classes),
        "arch": arch,
        "backbone_sha256": domain.backbone_sha256,
        "size": domain.size,
        "weights_bytes": 2 * sum(array.size for array in domain.weights.values()),
        "metrics": domain.metrics,
        "exits": exits,
        "temperature": domain.temperature,
        "closed_blocks": list(domain.closed),
        "calibration": domain.calibration,
        "provenance": domain.provenance,
    }


def _places(plan: Tuple[Step, ...]) -> Tuple[int, ...]:
    """By exit: the last block that runs before it."""
    found: List[int] = []
    last = -1
    for step in plan:
        if step.block is not None:
            last = step.block
        if step.exit:
            found.append(last)
    return tuple(found)


_LONGEST_NAME = 40  # of a metric, as its maker called it: every line is indented by the longest
_METRICS = {"val_accuracy": "accuracy", "flops_share": "block FLOPs run"}


def _metric(key: str, value: Any) -> str:
    if key in _METRICS and isinstance(value, (int, float)):
        return "%.1f %% %s" % (100 * value, "of the validation photos" if key == "val_accuracy" else "on average")
    return json.dumps(value)


def _exit(exit: Dict[str, Any]) -> str:
    where = "" if exit["behind_block"] is None else "behind block %d: " % exit["behind_block"]
    if exit["threshold"] is None:
        return where + "nobody leaves"
    return "%sphotos of a probability above %.3f leave (temperature %.2f)" % (
        where,
        exit["threshold"],
        exit["temperature"],
    )


def _origin(told: Dict[str, Any]) -> List[Tuple[str, str]]:
    """Where a domain comes from. A pack says what its maker wrote: of other types than ours it is printed as it is."""
    if not told:
        return [("provenance", _UNKNOWN)]
    rows: List[Tuple[str, str]] = []
    if told.get("begun"):
        with_engine = " with %s" % told["engine"] if told.get("engine") else ""
        rows.append(("trained", "%s by da3 %s%s" % (told["begun"], told.get("da3", "?"), with_engine)))
    photos = told.get("photos")
    if isinstance(photos, dict):
        counts = "%s to train on, %s to validate on" % (photos.get("train", "?"), photos.get("val", "?"))
        rows.append(("photos", "%s; sha256 %s" % (counts, photos.get("sha256", "?"))))
    start = told.get("from")
    if isinstance(start, dict):
        rows.append(("started from", str(start.get("domain", "?"))))
    for key in ("settings", "versions"):
        if isinstance(told.get(key), dict):
            rows.append((key, ", ".join("%s %s" % (name, _plain(v)) for name, v in told[key].items())))
    for key in ("machine", "processes", "command"):
        if told.get(key):
            rows.append((key, str(told[key])))
    return rows or [("provenance", json.dumps(told))]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _named(arch: Optional[str]) -> str:
    return "" if arch is None else "%s " % arch
