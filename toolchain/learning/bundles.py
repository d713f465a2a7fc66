"""The bundle of a bare backbone that a run learns on: kept beside the weights, and made in a process that ends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from da3.runtime.bundle import FORMAT, Bundle
from da3.runtime.errors import BundleError
from da3.runtime.system import VERSION
from da3.runtime.training import AdaptorSpec, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.process import Worker

WORKER = "da3.toolchain.learning.bundle_process"


def bundle_path(runs: Path, arch: str, sha256: str, size: int, adaptor: AdaptorSpec) -> Path:
    """Where the bundle of these weights is, made by this da3, for images of ``size`` and domains of this shape."""
    shape = json.dumps([VERSION, FORMAT, adaptor.to_json()], sort_keys=True)
    which = hashlib.sha256(shape.encode()).hexdigest()[:8]
    return runs / "backbones" / f"{arch}-{sha256[:12]}-{size}px-{which}"


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a bundle of the backbone with this identity is at ``path``, every file of it as it was written."""
    try:
        with Bundle(path) as bundle:
            for name in bundle.manifest.files:
                bundle.read(name)
            return bundle.manifest.backbone_sha256 == sha256
    except (BundleError, OSError):
        return False


def new_bundle(runs: Path, arch: str, weights: str, size: int | None) -> Path:
    """The bundle for a new run on what ``load_weights`` reads; ``size``: None for what the weights state.

    The weights are stored in ``runs`` too, where export looks for them. Raises WorkerError, in one line, for weights
    that cannot be read.
    """
    return _made({"runs": str(runs), "arch": arch, "weights": weights, "size": size})


def bundle_of(runs: Path, config: RunConfig, weights: str | None) -> Path:
    """The bundle of a run that is begun. ``weights``: as given again, or None for those it was begun with.

    Raises WorkerError, in one line, where they are other ones, or gone.
    """
    return bundle_for(runs, config.backbone, config.weights_sha256, config.size, config.adaptor, weights)


def bundle_for(runs: Path, arch: str | None, sha256: str, size: int, adaptor: AdaptorSpec, weights: str | None) -> Path:
    """The bundle of the weights with this hash. ``arch``: None for the network of those stored. ``weights``: what
    ``load_weights`` reads, or None for those stored.

    Raises WorkerError, in one line, where they are other ones, or gone.
    """
    if arch is not None and weights is None:
        path = bundle_path(runs, arch, sha256, size, adaptor)
        if is_whole(path, sha256):
            return path
    facts = {"sha256": sha256, "adaptor": adaptor.to_json()}
    return _made({"runs": str(runs), "arch": arch, "weights": weights, "size": size, **facts})


def _made(request: dict[str, Any]) -> Path:
    with Worker(WORKER, request) as worker:
        for answer in worker.answers():
            if "bundle" in answer:
                return Path(answer["bundle"])
    raise TrainingError("the backbone could not be made ready: its process ended without a result")
