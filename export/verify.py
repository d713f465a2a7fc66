"""Does what was exported compute what was trained? Segment by segment, then end to end, exits included."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from da3.export.checks import TOLERANCE, Check
from da3.export.errors import VerificationError
from da3.export.sessions import SegmentSessions
from da3.runtime import Domain, Runtime
from da3.runtime.bundle import Bundle
from da3.runtime.records import Step
from da3.runtime.schedule import inputs_of
from da3.runtime.selftest import Decided, relative_error
from da3.toolchain.autograd import run_block
from da3.toolchain.network import DomainModel

Array = NDArray[Any]


def verify(
    model: DomainModel, trained: Domain, bundle: Bundle, runtime: Runtime, domain: Domain, images: Array
) -> list[Check]:
    """Compare the runtime with torch on ``images`` (N, 3, S, S) float32, preprocessed.

    ``model`` computes with the numbers of ``trained``, which ``runtime`` has read back as ``domain``. Checks every
    segment on torch's own inputs, what is done in the place of closed blocks, the whole network as one batch and image
    by image (where images leave, which blocks they run, logits and top-1), and the whole network with all images
    leaving at each exit, and with all blocks on.
    """
    model.eval()
    values: dict[str, Tensor] = {}
    with torch.no_grad():
        answers = model(torch.from_numpy(images), values).answers.numpy()
    sessions = SegmentSessions(bundle)
    checks = [check for step in bundle.manifest.plan for check in _check_step(step, model, sessions, domain, values)]
    for number, block in enumerate(model.spec.exits):
        forced = runtime.run_batch(images, domain.name, leave_at=number).logits
        checks.append(_compare(f"all leave behind block {block}", Decided.all_at(answers, number), forced))
    if domain.closed or any(rule.threshold is not None for rule in domain.exits):
        checks.append(_check_all_blocks(model, runtime, domain, images))
    for name, batches in (
        ("end to end, one batch", [images]),
        ("end to end, one by one", np.split(images, len(images))),
    ):
        results = [runtime.run_batch(batch, domain.name) for batch in batches]
        logits, left, blocks = (
            np.concatenate([getattr(result, what) for result in results]) for what in ("logits", "left", "blocks")
        )
        expected = Decided.of(answers, trained, TOLERANCE)
        same = bool((left == expected.left)[expected.sure].all() and (blocks == _ran(model, left)).all())
        checks.append(compare_answers(name, expected, logits, same))
    return checks


def _check_all_blocks(model: DomainModel, runtime: Runtime, domain: Domain, images: Array) -> Check:
    """Nothing is closed, and nobody leaves."""
    closed = model.closed.clone()
    model.closed.zero_()
    try:
        with torch.no_grad():
            answers = model(torch.from_numpy(images)).answers.numpy()
    finally:
        model.closed.copy_(closed)
    found = runtime.run_batch(images, domain.name, force_all_blocks=True).logits
    return _compare("all blocks on", Decided.all_at(answers, answers.shape[1] - 1), found)


def _ran(model: DomainModel, left: Array) -> Array:
    """bool (N, blocks): which blocks images run that leave there."""
    last = np.array([*model.spec.exits, len(model.backbone.blocks) - 1])[left]  # the last block that was come by
    ran: Array = (np.arange(len(model.backbone.blocks)) <= last[:, None]) & ~model.closed.numpy()
    return ran


def _check_step(
    step: Step, model: DomainModel, sessions: SegmentSessions, domain: Domain, values: dict[str, Tensor]
) -> list[Check]:
    """The step, and what is done in its place where its block is closed, each on torch's own inputs."""
    arrays = {name: value.numpy() for name, value in values.items()}

    def check(step: Step, what: str, expected: list[Tensor]) -> Check:
        pairs = zip(sessions.run(step.segment, inputs_of(step, arrays, domain)), expected, strict=True)
        return Check(step.segment, max(relative_error(o, e.numpy()) for o, e in pairs), what)

    if step.block is None:
        return [check(step, " ".join(step.outputs), [values[name] for name in step.outputs])]
    i, block = step.block, model.backbone.blocks[step.block]
    x, *added = (values[name] for name in step.inputs)
    with torch.no_grad():
        checks = [check(step, block.name, [run_block(block, x, added[0] if added else None)])]
        # A domain has the bypasses of the blocks that it closes, and no others.
        if step.skip is not None and (i in domain.closed or model.bypass(i) is None):
            checks.append(check(step.skipped, f"{block.name} closed", [model.run(i, x, run=False).y]))
    return checks


def compare_answers(name: str, expected: Decided, logits: Array, same: bool = True) -> Check:
    """The answers to images of which we can be ``sure`` where they leave. ``same``: what else must be equal is."""
    sure = expected.sure
    if not sure.any():
        return Check(name, 0.0, "every sample image is within rounding of leaving at an exit", same=False)
    detail = f"{int(sure.sum())} images, blocks and exits {'equal' if same else 'DIFFER'}, "
    found = _compare(name, Decided(*(part[sure] for part in expected)), logits[sure])
    detail += found.detail
    if not sure.all():
        detail += f" ({int((~sure).sum())} left out: within rounding of leaving at an exit)"
    return Check(name, found.error, detail, same and found.same)


def _compare(name: str, expected: Decided, logits: Array) -> Check:
    same = bool((expected.logits.argmax(1) == logits.argmax(1)).all())
    return Check(name, relative_error(logits, expected.logits), f"top-1 {'equal' if same else 'DIFFERS'}", same)


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
