"""The files of bundle format 1 (docs/bundle.md) as bytes: the manifest, and one domain's two files."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from da3.export.segments import Deployment
from da3.runtime.images.preprocess import Preprocessing
from da3.toolchain.network.model import DomainModel

FORMAT = 1
_HALF_LIMIT = 60000.0  # float16 ends at 65504


def manifest(model: DomainModel, deployment: Deployment, preprocessing: Preprocessing) -> bytes:
    """manifest.json."""
    info = model.backbone.info
    return to_json(
        {
            "format": FORMAT,
            "created_by": f"da3 {_version()}",
            "backbone": {
                "arch": info.arch,
                "width": info.width,
                "sha256": info.sha256,
                "feature_size": model.backbone.feature_size,
            },
            "preprocessing": preprocessing._asdict(),
            "adaptor": model.spec.to_json(),
            "blocks": deployment.blocks,
            "segments": deployment.segments,
            "plan": deployment.plan,
            "files": {name: _entry(data) for name, data in sorted(deployment.files.items())},
        }
    )


def stored_tensors(model: DomainModel) -> dict[str, Tensor]:
    """The domain's tensors as a bundle stores them: float16, or float32 where that would overflow."""
    return {
        name: tensor.cpu().contiguous().half() if float(tensor.abs().max()) < _HALF_LIMIT else tensor.cpu().contiguous()
        for name, tensor in model.domain_tensors().items()
    }


def domain_files(
    model: DomainModel,
    tensors: dict[str, Tensor],
    name: str,
    classes: tuple[str, ...],
    metrics: dict[str, float],
) -> dict[str, bytes]:
    """domain.json and weights.safetensors of one domain."""
    weights = save(tensors)
    description = {
        "format": FORMAT,
        "name": name,
        "classes": list(classes),
        "theta": model.theta,
        "gated": model.gated,
        "backbone_sha256": model.backbone.info.sha256,
        "size": model.size,
        "adaptor": model.spec.to_json(),
        "metrics": metrics,
        "weights": {"file": "weights.safetensors", **_entry(weights)},
    }
    return {"weights.safetensors": weights, "domain.json": to_json(description)}


def load_stored(model: DomainModel, tensors: dict[str, Tensor]) -> None:
    """Make ``model`` compute with exactly what is stored, rounding included."""
    model.load_domain_tensors({k: v.to(torch.float32) for k, v in tensors.items()})


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below ``folder``, which the caller moves into place when all is verified."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def to_json(value: object) -> bytes:
    """JSON as the bundle stores it: readable, and the same bytes for the same value."""
    return (json.dumps(value, indent=1) + "\n").encode()


def _entry(data: bytes) -> dict[str, object]:
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _version() -> str:
    try:
        return version("da3")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
