"""Stage: the same network as one engine, beside which the parts should be neither slow nor wrong."""

import os
from typing import Any, Dict, Mapping

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.format import DOMAINS, FORMAT, MANIFEST
from ..bundle.manifest import Manifest
from ..bundle.plan import BATCH, IMAGE, LOGITS
from ..bundle.writer import domain_files, file_entry, manifest_file, write_files
from ..engine import Runtime
from ..onnx_graph.whole import whole_model
from ..onnx_graph.writing import write_model
from ..records import Array, Block, Domain, Segment, Step, Value
from ..system.scratch import temporary_folder
from ..trt.store import engines_folder, read_sets
from .findings import SKIP, Teller
from .options import SelftestOptions
from .pictures import network_images
from .stage_parts import P50, PARTS_OF
from .stage_timing import ALL_ON, budget_of, timed
from .subjects import BACKBONE, read_subject, with_goldens
from .summary import relative_error
from .tolerances import BY_PRECISION, LEAST, precision_of

SLOWEST, SLACK_MS = 3.0, 1.0  # times the whole's p50, and what calls of very small networks may take besides
_FILE = "backbone/whole.onnx"


def check_whole(options: SelftestOptions, tell: Teller, earlier: Mapping[str, Any]) -> None:
    """Tells whether the whole answers as the golden values say, and whether the parts are fast enough beside it.

    earlier: {"findings": [...], "notes": {...}} of the stages before, a Finding as a dict each.
    """
    with Bundle(options.bundle) as bundle:
        backend = options.new_backend(bundle)
        if options.quick and backend.name == "tensorrt":
            tell.find(SKIP, "one engine for the whole", "it takes minutes to build: not with --quick")
            return
        precision = precision_of(options, backend, bundle)
        if precision == "int8":  # what was measured for INT8 was measured of the parts
            precision = "fp16"
        subject = read_subject(bundle, BACKBONE)
        with temporary_folder("selftest") as folder:
            path = os.path.join(folder, "whole")
            write_whole_bundle(bundle, subject.domain, path)
            if backend.name == "tensorrt":
                _build(options, tell, bundle, path, precision)
            subject = with_goldens(subject, bundle, options.quick, tell.begin)
            assert subject.goldens is not None
            images = network_images(subject.goldens.pictures, bundle.manifest.preprocessing)
            tell.begin("running the whole as one engine")
            with Runtime(path, backend=backend.name, threads=options.threads, precision=precision) as runtime:
                name = runtime.use_only().name
                logits = np.concatenate([runtime.run_batch(image[None], name).logits for image in images])
                _say_error(tell, logits, subject.goldens.chain[LOGITS], BY_PRECISION[precision].chain)
                figures = timed(lambda: runtime.run_batch(images[:1], name), budget_of(options))
    judge_speed(tell, figures["p50"], precision, earlier)


def write_whole_bundle(bundle: Bundle, domain: Domain, path: str) -> None:
    """A bundle at `path` whose plan is one step: the network of a domain with all blocks on, its weights inside."""
    data = write_model(whole_model(bundle, domain))
    manifest, size = bundle.manifest, bundle.manifest.preprocessing.size
    segment = Segment(
        "whole",
        _FILE,
        (Value(IMAGE, (BATCH, 3, size, size)),),
        (Value(LOGITS, (BATCH, len(domain.classes))),),
    )
    whole = Manifest(
        format=FORMAT,
        created_by=manifest.created_by,
        backbone={"arch": manifest.arch, "sha256": manifest.backbone_sha256},
        backbone_sha256=manifest.backbone_sha256,
        preprocessing=manifest.preprocessing,
        adaptor={},
        blocks=(Block("whole", 1.0, None),),
        segments={"whole": segment},
        plan=(Step("whole", (IMAGE,), (LOGITS,), block=0),),
        files={_FILE: file_entry(data)},
    )
    bare = domain._replace(adaptor={}, weights={}, closed=(), exits=(), gated=False, calibration={})
    write_files(path, {_FILE: data, MANIFEST: manifest_file(whole)})
    write_files(os.path.join(path, DOMAINS, domain.name), domain_files(bare))


def _build(options: SelftestOptions, tell: Teller, bundle: Bundle, path: str, precision: str) -> None:
    from ..trt.build import build_engines

    sets = read_sets(engines_folder(bundle, options.engines))
    batch = sets[0].options.batch if sets else (1, 1)
    tell.begin("building the whole as one engine in %s, which takes minutes on a board" % precision)
    report = build_engines(path, precision, batch)
    tell.note("building the whole", {"seconds": report.seconds, "bytes": report.nbytes})


def _say_error(tell: Teller, logits: Array, expected: Array, allowed: float) -> None:
    name = "one engine for the whole"
    error = relative_error(logits, expected, LEAST)
    text = "logits are off by %.1e, allowed %g" % (error, allowed)
    tell.check(error <= allowed, name, text, {"relative": error, "allowed": allowed})


def judge_speed(tell: Teller, whole: float, precision: str, earlier: Mapping[str, Any]) -> None:
    """Is what the other stages measured slow beside the whole? whole: its p50 in milliseconds."""
    limit = SLOWEST * whole + SLACK_MS
    values: Dict[str, Any] = {"whole p50 ms": whole, "precision": precision, "limit ms": limit}
    measured: Dict[str, float] = {}
    for finding in earlier.get("findings", ()):
        if finding["values"].get("key") == ALL_ON:
            measured[ALL_ON] = float(finding["values"]["p50"])
    rows = earlier.get("notes", {}).get(PARTS_OF % BACKBONE) or {}
    run = {name: row for name, row in rows.items() if not row.get("instead")}
    if run:
        measured["the parts one after the other"] = sum(row[P50] for row in run.values())
    name = "speed beside one engine"
    if not measured:
        tell.find(SKIP, name, "the whole takes %.3f ms; nothing was measured to be compared with it" % whole, values)
        return
    values.update(measured)
    text = "the whole takes %.3f ms; %s" % (
        whole,
        ", ".join("%s %.3f ms (%.2f times)" % (what, took, took / whole) for what, took in measured.items()),
    )
    slow = [what for what, took in measured.items() if took > limit]
    if slow:
        text += "; more than %.3f ms is too slow" % limit
        text += "" if not run else ": most over its share of the FLOPs takes %s" % _slowest(run)
    tell.check(not slow, name, text, values)


def _slowest(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The part that takes most over what its FLOPs would let one expect."""
    total = sum(row[P50] for row in rows.values())
    excess = {name: row[P50] / total - row["FLOPs share"] for name, row in rows.items()}
    worst = max(excess, key=lambda name: excess[name])
    return "%s, %.0f %% of the time for %.0f %% of the FLOPs" % (
        worst,
        100 * rows[worst][P50] / total,
        100 * rows[worst]["FLOPs share"],
    )
