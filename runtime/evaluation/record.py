"""An evaluation as a file: JSON with everything, which a later da3 still reads, and CSV with a row for each photo.

docs/evaluate.md lists the fields. A field keeps its name and meaning as long as FORMAT is the same; others may join it.
"""

import csv
import hashlib
import io
import os
import time
from typing import Any, Dict, NamedTuple, Optional, Sequence

from ..bundle.jsonfile import Object, check_format, parse_object
from ..errors import BundleError, DataError
from ..records import Domain
from ..system.machine import conditions
from ..system.regular import read_regular
from ..system.versions import VERSION, distribution_version
from .answering import Answered, Evaluation
from .comparison import Comparison, Verdict, Verdicts
from .labelled import file_size
from .scores import Scores, score

FORMAT = 1
KIND = "da3 evaluation"
_LIMIT = 2**30  # bytes; a million photos take a third of it
_COLUMNS = (
    "path",
    "label",
    "answer",
    "correct",
    "probability",
    "label_probability",
    "rank",
    "exit",
    "blocks_run",
    "flops_share",
    "engine_ms",
    "known",
    "familiarity",
)
_AGAINST = ("answer", "correct", "probability", "exit", "flops_share", "engine_ms")


class Earlier(NamedTuple):
    """What an earlier run wrote. path: its file; evaluation: the object it has of it; verdicts: its answers."""

    path: str
    evaluation: Dict[str, Any]
    verdicts: Verdicts


def as_record(evaluations: Sequence[Dict[str, Any]], comparison: Optional[Comparison] = None) -> Dict[str, Any]:
    """The object that a file holds. evaluations: one, or two that are compared, each from `describe`."""
    return {
        "format": FORMAT,
        "kind": KIND,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": dict(conditions(), da3=VERSION, tensorrt=distribution_version("tensorrt")),
        "evaluations": list(evaluations),
        "comparison": None if comparison is None else dict(comparison._asdict()),
    }


def describe(evaluation: Evaluation, scores: Optional[Scores] = None) -> Dict[str, Any]:
    """One evaluation as an object of JSON."""
    found = score(evaluation) if scores is None else scores
    domain, photos, settings = evaluation.domain, evaluation.photos, evaluation.settings
    return {
        "domain": _domain(domain),
        "bundle": {
            "path": settings.bundle,
            "backbone": evaluation.arch,
            "backbone_sha256": domain.backbone_sha256,
            "size": domain.size,
            "blocks": list(evaluation.block_names),
        },
        "settings": {key: value for key, value in settings._asdict().items() if key != "bundle"},
        "data": {
            "source": photos.source,
            "folder": os.path.abspath(photos.folder),
            "photos": len(photos.photos),
            "sha256": photos.sha256(),
            "unreadable": [{"path": photos.name(path), "error": error} for path, error in evaluation.unreadable],
        },
        "scores": _scores(found),
        "unknown": _unknown(evaluation, found),
        "classes": [dict(one._asdict(), exits=list(one.exits), blocks=list(one.blocks)) for one in found.classes],
        "confusion": found.confusion.tolist(),
        "exits": [dict(one._asdict()) for one in found.exits],
        "reliability": [dict(one._asdict()) for one in found.bins],
        "timing": {
            "batch_ms": found.latency_ms,
            "photo_ms": found.mean_latency_ms,
            "images_per_second": found.images_per_second,
            "engine_images_per_second": found.engine_per_second,
            "seconds": evaluation.seconds,
            "decode_seconds": evaluation.decode_s,
            "beside_decoding": settings.workers > 0,
        },
        "photos": [_row(row, evaluation) for row in evaluation.answered],
    }


def verdicts(evaluation: Evaluation) -> Verdicts:
    """What each photo was answered with, by its name."""
    classes, name = evaluation.domain.classes, evaluation.photos.name
    return {
        name(row.path): Verdict(classes[row.label], classes[row.answer], file_size(row.path))
        for row in evaluation.answered
    }


def open_record(path: str) -> Object:
    """The object in a file that `as_record` made, with one evaluation or more; what is in those was not looked at.
    Raises DataError for what is none."""
    try:
        data = read_regular(path, _LIMIT)
    except OSError as error:
        raise DataError("cannot read %s: %s" % (path, error.strerror or error))
    try:
        root = parse_object(data, path, _LIMIT)
        if root.optional("kind") != KIND:
            raise DataError("%s is no evaluation: name a file that `da3 evaluate --json` wrote" % path)
        check_format(root, FORMAT)
        if not root.objects("evaluations"):
            raise DataError("%s holds no evaluation" % path)
    except BundleError as error:
        raise DataError(str(error))
    return root


def read_record(path: str) -> Earlier:
    """The first evaluation in a file that `as_record` made. Raises DataError for what is none."""
    root = open_record(path)
    try:
        found = root.objects("evaluations")
        rows = found[0].objects("photos")
        answers = {row.text("path"): _verdict(row) for row in rows}
        found[0].object("domain").text("name")
        scores = found[0].object("scores")
        for key in ("top1", "flops_share"):
            scores.number(key)
    except BundleError as error:
        raise DataError(str(error))
    return Earlier(path, found[0].raw, answers)


def _verdict(row: Object) -> Verdict:
    nbytes = None if row.optional("bytes") is None else row.integer("bytes")
    return Verdict(row.text("label"), row.text("answer"), nbytes)


def as_csv(evaluation: Evaluation, against: Optional[Evaluation] = None) -> bytes:
    """UTF-8, a header and a row for each photo that was answered; with `against`, how that answered it, in columns of
    their own that are empty where it did not."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    header = list(_COLUMNS)
    others: Dict[str, Dict[str, Any]] = {}
    if against is not None:
        header += ["against_" + column for column in _AGAINST]
        others = {row["path"]: row for row in (_row(one, against) for one in against.answered)}
    writer.writerow(header)
    for answered in evaluation.answered:
        row = _row(answered, evaluation)
        other = others.get(row["path"], {})
        cells = [row[column] for column in _COLUMNS]
        if against is not None:
            cells += [other.get(column) for column in _AGAINST]
        writer.writerow([_cell(value) for value in cells])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return "%.6g" % value
    return "" if value is None else str(value)


def _row(row: Answered, evaluation: Evaluation) -> Dict[str, Any]:
    classes = evaluation.domain.classes
    return {
        "path": evaluation.photos.name(row.path),
        "bytes": file_size(row.path),
        "label": classes[row.label],
        "answer": classes[row.answer],
        "correct": row.correct,
        "probability": row.probability,
        "label_probability": row.label_probability,
        "rank": row.rank,
        "exit": row.exit,
        "blocks_run": row.blocks_run,
        "flops_share": row.flops_share,
        "engine_ms": 1e3 * row.engine_s,
        "known": row.known,
        "familiarity": row.familiarity,
    }


def _scores(found: Scores) -> Dict[str, Any]:
    names = ("photos", "correct", "top1", "top5", "balanced_accuracy", "macro_f1", "confidence", "calibration_error")
    named = {name: getattr(found, name) for name in names}
    return dict(named, interval=list(found.interval), flops_share=found.flops_share)


def _unknown(evaluation: Evaluation, found: Scores) -> Optional[Dict[str, Any]]:
    """limit: the share of false alarms that is taken for granted. photos: that were said to be unknown, of the domain's
    own, and correct, how many of these answers were right. foreign: the pictures that are none of its own."""
    familiar, foreign = evaluation.domain.familiar, evaluation.foreign
    if familiar is None or found.unknown is None:
        return None
    others = None
    if foreign is not None:
        others = {
            "source": foreign.source,
            "photos": len(foreign.familiarities),
            "known": foreign.known,
            "area_under_curve": found.area_under_curve,
            "unreadable": [{"path": path, "error": error} for path, error in foreign.unreadable],
        }
    return {
        "limit": familiar.limit,
        "photos": found.unknown,
        "share": found.unknown / float(found.photos),
        "correct": found.unknown_correct,
        "foreign": others,
    }


def _domain(domain: Domain) -> Dict[str, Any]:
    return {
        "name": domain.name,
        "sha256": _identity(domain),
        "classes": list(domain.classes),
        "closed": list(domain.closed),
        "exits": [dict(rule._asdict()) for rule in domain.exits],
        "temperature": domain.temperature,
        "metrics": domain.metrics,
    }


def _identity(domain: Domain) -> str:
    """Of all that answers depend on: tensors, classes and decisions."""
    made = hashlib.sha256()
    rules = [tuple(rule) for rule in domain.exits]
    decided = (domain.classes, domain.closed, rules, domain.temperature, domain.theta, domain.gated)
    made.update(repr(decided).encode("utf-8", "backslashreplace"))
    for name, tensor in sorted(domain.weights.items()):
        made.update(("%s %s\n" % (name, tensor.shape)).encode())
        made.update(tensor.tobytes())
    return made.hexdigest()
