"""What was trained as the runtime's ``Domain``: the numbers that are stored, and the model that computes with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from da3.runtime.bundle import as_stored
from da3.runtime.records import Array, Domain, Familiar
from da3.runtime.training.deployed import decisions
from da3.toolchain.backbones import BackboneInfo
from da3.toolchain.network import DomainModel, Head


@dataclass(frozen=True)
class DomainFacts:
    """What a domain is called, what its answers are called, how good it is, where it comes from, and what its
    photos look like."""

    name: str
    classes: tuple[str, ...]
    metrics: dict[str, float]
    provenance: dict[str, Any] = field(default_factory=dict)
    familiar: Familiar | None = None


def trained_domain(model: DomainModel, facts: DomainFacts, calibration: dict[str, Any] | None) -> Domain:
    """``model``'s domain with the numbers that a bundle stores of it, rounding included.

    ``calibration``: as the run's progress has it, of where photos leave; None where nobody does.
    """
    decided = decisions(calibration, len(model.exits))
    return Domain(
        name=facts.name,
        classes=facts.classes,
        backbone_sha256=model.backbone.info.sha256,
        size=model.size,
        adaptor=model.spec.to_json(),
        metrics=dict(facts.metrics),
        weights={name: _array(as_stored(_array(tensor))) for name, tensor in model.domain_tensors().items()},
        closed=model.closed_blocks,
        exits=decided.exits,
        temperature=decided.temperature,
        calibration=decided.calibration,
        provenance=facts.provenance,
        familiar=facts.familiar,
    )


def plain_domain(head: Head, backbone: BackboneInfo, size: int, facts: DomainFacts) -> Domain:
    """The domain of a network that is a backbone and a head: the head's tensors as they are."""
    return Domain(
        name=facts.name,
        classes=facts.classes,
        backbone_sha256=backbone.sha256,
        size=size,
        adaptor={},
        metrics=dict(facts.metrics),
        weights={f"head.{name}": _array(tensor) for name, tensor in head.domain_tensors().items()},
    )


def load_domain(model: DomainModel, domain: Domain) -> None:
    """Make ``model`` compute with exactly the numbers of ``domain``, and leave out what it closes."""
    model.closed.zero_()
    for block in domain.closed:
        model.close(block)
    model.load_domain_tensors({name: torch.from_numpy(array) for name, array in domain.weights.items()})


def _array(tensor: Tensor | Array) -> Array:
    """float32, C-contiguous."""
    return np.ascontiguousarray(tensor.cpu().numpy() if isinstance(tensor, Tensor) else tensor, dtype=np.float32)
