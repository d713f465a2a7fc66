"""Golden values at export: what each of the files computes of generated pictures, checked against PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from da3.export.checks import Check
from da3.export.segments import Deployment
from da3.export.sessions import SegmentSessions
from da3.runtime.bundle import BACKBONE_GOLDENS, BundleContents, file_entry, fitted
from da3.runtime.images import Preprocessing
from da3.runtime.records import Domain
from da3.runtime.selftest import (
    Goldens,
    compute_goldens,
    network_images,
    relative_error,
    summarised,
    tried_domain,
    write_goldens,
)
from da3.runtime.system import distribution_version
from da3.toolchain.network import DomainModel


def domain_goldens(bundle: BundleContents, domain: Domain) -> Goldens:
    """Those of a domain of the bundle, for its file of them."""
    sessions = SegmentSessions(bundle)
    by = f"onnxruntime {distribution_version('onnxruntime') or distribution_version('onnxruntime-gpu')}"
    return compute_goldens(
        bundle, fitted(domain, bundle.manifest), lambda step, inputs: sessions.run(step.segment, inputs), by
    )


def with_backbone_goldens(deployment: Deployment) -> Deployment:
    """The same deployment with the golden values of the backbone, which is run with generated numbers in the place of a
    domain's."""
    data = write_goldens(domain_goldens(deployment, tried_domain(deployment.manifest)))
    files = {**deployment.files, BACKBONE_GOLDENS: data}
    entries = {**deployment.manifest.files, BACKBONE_GOLDENS: file_entry(data)}
    return Deployment(deployment.manifest._replace(files=dict(sorted(entries.items()))), files)


def check_goldens(goldens: Goldens, model: DomainModel, preprocessing: Preprocessing) -> Check:
    """Every value of the chain that ``model`` has against PyTorch. ``model`` computes with the domain's numbers."""
    values: dict[str, Tensor] = {}
    images = torch.from_numpy(network_images(goldens.pictures, preprocessing))
    with torch.no_grad():
        model.eval()(images, values)
    errors = {}
    for name in goldens.chain.keys() & values.keys():
        array, golden = values[name].numpy(), goldens.chain[name]
        whole = golden.shape[1] == int(np.prod(array.shape[1:]))
        errors[name] = relative_error(summarised(array, whole), golden)
    worst = max(errors, key=lambda name: errors[name])
    return Check("golden values", errors[worst], f"{len(errors)} values, the worst is {worst}")
