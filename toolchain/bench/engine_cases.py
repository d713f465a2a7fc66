"""What ``da3 bench run`` times: one monolithic model, and the engine with all blocks, gated, and with some skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from da3.runtime.backends import OrtBackend, open_session
from da3.runtime.bundle import IMAGE, LOGITS
from da3.runtime.engine import Runtime
from da3.runtime.errors import BackendError
from da3.runtime.onnx_graph import whole_model, write_model
from da3.runtime.records import Array, Block
from da3.runtime.schedule import flops_share

NAMES = ("monolithic", "all-on", "gated", "skip-25", "skip-50", "skip-75")


@dataclass(frozen=True)
class Case:
    """One way to run a domain on images float32 (B, 3, S, S).

    ``flops_share``: of the blocks' FLOPs, 0 to 1; None where the gates decide it for each image.
    """

    name: str
    run: Callable[[Array], object]
    flops_share: float | None


def cases_of(runtime: Runtime, domain: str, names: Sequence[str], threads: int | None) -> list[Case]:
    """The cases of ``NAMES`` that are asked for, in that order; "monolithic" exists on ONNX Runtime alone."""
    cases = []
    for name in names:
        if name == "monolithic":
            if runtime.backend == OrtBackend.name:
                cases.append(Case(name, _monolithic(runtime, domain, threads), 1.0))
        elif name == "all-on":
            cases.append(Case(name, partial(runtime.run_batch, domain=domain, force_all_blocks=True), 1.0))
        elif name == "gated":
            cases.append(Case(name, partial(runtime.run_batch, domain=domain), None))
        else:
            cases.append(_skipping(runtime, domain, name))
    return cases


def mean_flops_share(blocks: Sequence[Block], ran: Sequence[Array]) -> float:
    """Mean share of the blocks' FLOPs over batches; ``ran`` are their bool (B, blocks)."""
    return float(flops_share(blocks, np.concatenate(ran)).mean())


def choose_blocks(blocks: Sequence[Block], share: float) -> tuple[int, ...]:
    """Gateable blocks whose branches hold, as nearly as any set's, this share of all such branches' FLOPs."""
    sizes = {i: b.flops - b.skip_flops for i, b in enumerate(blocks) if b.skip_flops is not None}
    target = share * sum(sizes.values())
    # Each sum of sizes that can be reached, with one set that reaches it. Sums are whole thousandths, so there are few.
    unit = max(sum(sizes.values()) / 1000.0, 1.0)
    ways: dict[int, tuple[int, ...]] = {0: ()}
    for block, size in sizes.items():
        for reached, way in list(ways.items()):
            ways.setdefault(reached + round(size / unit), (*way, block))
    return ways[min(ways, key=lambda reached: abs(reached - target / unit))]


def _skipping(runtime: Runtime, domain: str, name: str) -> Case:
    """``skip-50`` and the like: that percentage of the gateable FLOPs is skipped, whatever the gates say."""
    blocks = runtime.bundle.manifest.blocks
    chosen = choose_blocks(blocks, int(name.split("-")[1]) / 100.0)
    gates = {i: i not in chosen for i, block in enumerate(blocks) if block.skip_flops is not None}
    ran = np.array([[gates.get(i, True) for i in range(len(blocks))]])
    return Case(name, partial(runtime.run_batch, domain=domain, gates=gates), mean_flops_share(blocks, [ran]))


def _monolithic(runtime: Runtime, domain: str, threads: int | None) -> Callable[[Array], object]:
    """The domain's network as one ordinary ONNX model. Raises BackendError where the engine answers otherwise."""
    session = open_session(write_model(whole_model(runtime.bundle, runtime.load(domain))), threads)
    size = runtime.preprocessing.size
    grey = np.zeros((1, 3, size, size), np.float32)
    found = session.run([LOGITS], {IMAGE: grey})[0]
    expected = runtime.run_batch(grey, domain, force_all_blocks=True).logits
    if np.abs(found - expected).max() > 1e-3 * max(1.0, np.abs(expected).max()):
        raise BackendError("the engine and one model of the same network answer differently: report this")
    return lambda images: session.run([LOGITS], {IMAGE: images})
