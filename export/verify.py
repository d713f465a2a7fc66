"""Does what was exported compute what was trained? Segment by segment, then end to end, gates included."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from da3.export.checks import TOLERANCE, Check
from da3.export.errors import VerificationError
from da3.runtime import Domain, Runtime
from da3.runtime.backends import open_session
from da3.runtime.bundle import Bundle
from da3.runtime.records import Step
from da3.runtime.schedule.walk import inputs_of
from da3.toolchain.autograd import run_block
from da3.toolchain.network import DomainModel, Gating

Array = NDArray[Any]


def verify(model: DomainModel, bundle: Bundle, runtime: Runtime, domain: Domain, images: Array) -> list[Check]:
    """Compare the runtime with torch on ``images`` (N, 3, S, S) float32, preprocessed.

    ``model`` must hold the stored tensors. Checks every segment on torch's own inputs, what is done in the place of
    skipped blocks, and the whole network as one batch and image by image: logits, gate decisions and top-1.
    """
    model.eval()
    model.gating = Gating.hard() if domain.gated else Gating.off()
    model.theta = domain.theta
    values: dict[str, Tensor] = {}
    with torch.no_grad():
        output = model(torch.from_numpy(images), values)
    sessions = _Sessions(bundle)
    checks = [check for step in bundle.manifest.plan for check in _check_step(step, model, sessions, domain, values)]
    expected = _Ends(output.logits.numpy(), output.gates.numpy() > 0.5)
    sure = _sure(values, domain)
    for name, batches in (
        ("end to end, one batch", [images]),
        ("end to end, one by one", np.split(images, len(images))),
    ):
        results = [runtime.run_batch(batch, domain.name) for batch in batches]
        found = _Ends(np.concatenate([r.logits for r in results]), np.concatenate([r.blocks for r in results]))
        checks.append(_compare_ends(name, expected, found, sure))
    return checks


class _Ends(NamedTuple):
    """What the whole network answers. logits (N, classes); blocks: bool (N, n_blocks), True where the block ran."""

    logits: Array
    blocks: Array


class _Sessions:
    """Each file of a bundle, opened on ONNX Runtime by itself: nothing is joined."""

    def __init__(self, bundle: Bundle):
        self._bundle = bundle
        self._opened: dict[str, Any] = {}

    def run(self, name: str, inputs: list[Array]) -> list[Array]:
        segment = self._bundle.manifest.segments[name]
        if segment.file not in self._opened:
            self._opened[segment.file] = open_session(self._bundle.read(segment.file))
        named = {v.name: np.ascontiguousarray(i, dtype=np.float32) for v, i in zip(segment.inputs, inputs, strict=True)}
        outputs: list[Array] = self._opened[segment.file].run([v.name for v in segment.outputs], named)
        return outputs


def _check_step(
    step: Step, model: DomainModel, sessions: _Sessions, domain: Domain, values: dict[str, Tensor]
) -> list[Check]:
    """The step, and what is done in its place when its block is skipped, each on torch's own inputs."""
    arrays = {name: value.numpy() for name, value in values.items()}

    def check(step: Step, what: str, expected: list[Tensor]) -> Check:
        pairs = zip(sessions.run(step.segment, inputs_of(step, arrays, domain)), expected, strict=True)
        return Check(step.segment, max(relative_error(o, e.numpy()) for o, e in pairs), what)

    if step.block is None:
        return [check(step, " ".join(step.outputs), [values[name] for name in step.outputs])]
    block = model.backbone.blocks[step.block]
    x, *added = (values[name] for name in step.inputs)
    with torch.no_grad():
        checks = [check(step, block.name, [run_block(block, x, added[0] if added else None)])]
        if step.skip is not None:
            skipped, _, _ = model.run(step.block, x, torch.zeros(len(x)))
            checks.append(check(step.skipped, f"{block.name} skipped", [skipped]))
    return checks


def _sure(values: dict[str, Tensor], domain: Domain) -> Array:
    """(N,) bool: images none of whose gates is so close to the threshold that rounding may decide it."""
    logits = [v.numpy() for name, v in values.items() if name.startswith("g")]
    if not logits or not domain.gated:
        return np.ones(len(values["image"]), dtype=bool)
    stacked = np.stack(logits, 1)  # (N, gates)
    result: Array = (np.abs(stacked - domain.theta) > TOLERANCE * np.maximum(1, np.abs(stacked))).all(1)
    return result


def _compare_ends(name: str, expected: _Ends, found: _Ends, sure: Array) -> Check:
    if not sure.any():
        return Check(name, 0.0, "every sample image has a gate within rounding of its threshold", same=False)
    same_gates = bool((expected.blocks == found.blocks)[sure].all())
    same_top1 = bool((expected.logits.argmax(1) == found.logits.argmax(1))[sure].all())
    detail = f"{int(sure.sum())} images, gates {'equal' if same_gates else 'DIFFER'}, "
    detail += f"top-1 {'equal' if same_top1 else 'DIFFERS'}"
    if not sure.all():
        detail += f" ({int((~sure).sum())} left out: a gate within rounding of its threshold)"
    return Check(name, relative_error(found.logits[sure], expected.logits[sure]), detail, same_gates and same_top1)


def relative_error(found: Array, expected: Array) -> float:
    """max |found - expected| / max |expected|; infinite where found is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    scale = max(float(np.abs(expected).max()), 1e-12)
    return float(np.abs(found - expected).max()) / scale


def require(checks: list[Check]) -> None:
    """Raise VerificationError naming the worst check if any failed."""
    failed = [c for c in checks if not c.passed]
    if failed:
        worst = max(failed, key=lambda c: c.error)
        raise VerificationError(
            f"verification failed in {len(failed)} of {len(checks)} checks; worst: {worst.name} ({worst.detail}), "
            f"relative error {worst.error:.1e}, allowed {TOLERANCE:.0e}; nothing was written",
            checks,
        )
