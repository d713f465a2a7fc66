"""Writing a bundle: its manifest and domains as bytes, and files put into place.

What is written here `manifest.py` and `domain.py` read. Equal content gives equal bytes.
"""

import hashlib
import json
import os
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from ..errors import DomainError
from ..records import Array, Domain, Path, Step, Value
from ..system.atomic import sync_folder
from .familiar import familiar_file
from .format import DESCRIPTION, FAMILIAR, FORMAT, GATED_FORMAT, GOLDENS, WEIGHTS
from .manifest import FileEntry, Manifest
from .safetensors import write_safetensors

_HALF_LIMIT = 60000.0  # float16 ends at 65504


def to_json(value: object) -> bytes:
    """JSON as a bundle holds it: readable, and the same bytes for the same value. Raises ValueError for NaN and
    infinite numbers, which JSON has not."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode("utf-8")


def file_entry(data: bytes) -> FileEntry:
    """What a manifest says about a file of these bytes."""
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data))


def manifest_file(manifest: Manifest) -> bytes:
    """manifest.json; `parse_manifest` gives the same manifest back."""
    return to_json(
        {
            "format": manifest.format,
            "created_by": manifest.created_by,
            "backbone": manifest.backbone,
            "preprocessing": manifest.preprocessing._asdict(),
            "adaptor": manifest.adaptor,
            "blocks": [block._asdict() for block in manifest.blocks],
            "segments": {
                name: {
                    "file": segment.file,
                    "inputs": _values(segment.inputs),
                    "outputs": _values(segment.outputs),
                }
                for name, segment in manifest.segments.items()
            },
            "plan": [_step(step) for step in manifest.plan],
            "files": {name: entry._asdict() for name, entry in sorted(manifest.files.items())},
        }
    )


def _values(values: Tuple[Value, ...]) -> List[Dict[str, Any]]:
    return [{"name": value.name, "shape": list(value.shape)} for value in values]


def _step(step: Step) -> Dict[str, Any]:
    content: Dict[str, Any] = {"segment": step.segment, "inputs": step.inputs, "outputs": step.outputs}
    if step.block is not None:
        content["block"] = step.block
    if step.gate is not None:
        content["gate"] = step.gate
    if step.skip is not None:
        content["skip"] = step.skip
        if step.skip_inputs != step.inputs:
            content["skip_inputs"] = step.skip_inputs
    if step.exit:
        content["exit"] = True
    return content


def as_stored(tensor: Array) -> Array:
    """A domain's tensor as a bundle stores it: float16, or float32 where that would overflow."""
    largest = float(np.abs(tensor).max()) if tensor.size else 0.0
    return tensor.astype(np.float16 if largest < _HALF_LIMIT else np.float32)


def domain_files(domain: Domain, goldens: Optional[bytes] = None) -> Dict[str, bytes]:
    """weights.safetensors, domain.json and, where a domain has it, familiar.safetensors: what a folder in a bundle, or
    a pack, holds. goldens: its file of golden values, if it has one.

    It is of format 1 where the domain is gated picture by picture. Raises DomainError where a number is not finite.
    """
    weights = write_safetensors({name: as_stored(tensor) for name, tensor in domain.weights.items()})
    description: Dict[str, Any] = {
        "format": GATED_FORMAT if domain.gated else FORMAT,
        "name": domain.name,
        "classes": list(domain.classes),
        "backbone_sha256": domain.backbone_sha256,
        "size": domain.size,
        "adaptor": domain.adaptor,
        "metrics": domain.metrics,
        "weights": dict([("file", WEIGHTS)], **file_entry(weights)._asdict()),
    }
    if domain.gated:
        description.update(theta=domain.theta, gated=True)
    else:
        description.update(decisions(domain))
    files = {WEIGHTS: weights}
    if goldens is not None:
        description["goldens"] = dict([("file", GOLDENS)], **file_entry(goldens)._asdict())
        files[GOLDENS] = goldens
    try:
        if domain.familiar is not None:
            files[FAMILIAR] = familiar_file(domain.familiar)
            description["familiar"] = dict([("file", FAMILIAR)], **file_entry(files[FAMILIAR])._asdict())
    except ValueError:
        raise DomainError("what the photos of domain %s look like must be finite numbers" % domain.name)
    if domain.provenance:
        description["provenance"] = domain.provenance
    try:
        return dict(files, **{DESCRIPTION: to_json(description)})
    except ValueError:
        raise DomainError("the metrics and thresholds of domain %s must be finite numbers" % domain.name)


def decisions(domain: Domain) -> Dict[str, Any]:
    """The entries of a domain.json of format 2 that say which blocks its pictures run."""
    return {
        "closed": list(domain.closed),
        "exits": [rule._asdict() for rule in domain.exits],
        "temperature": domain.temperature,
        "calibration": domain.calibration,
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder that nobody reads yet: the caller moves it into place. Raises OSError.

    A board that loses power must not find an empty file under a good name, nor none: all is on the disk when this
    returns.
    """
    folders = {os.fspath(folder)}
    for name, data in sorted(files.items()):
        path = os.path.join(os.fspath(folder), *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        folders.add(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for path in sorted(folders):
        sync_folder(path)
