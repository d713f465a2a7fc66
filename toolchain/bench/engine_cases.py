"""What ``da3 bench run`` times: one monolithic model, and the engine with all blocks, as deployed, and with some left
out whatever the picture is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from da3.runtime.backends import OrtBackend, open_session
from da3.runtime.bundle import IMAGE, LOGITS
from da3.runtime.engine import Runtime
from da3.runtime.errors import BackendError
from da3.runtime.onnx_graph import whole_model, write_model
from da3.runtime.records import Array, BatchResult, Block, Domain, ExitRule
from da3.runtime.schedule import join_plan, result_shares
from da3.runtime.trt import TensorRTBackend

MONOLITHIC, ALL_ON, CLOSED, PARTS, GATED = "monolithic", "all-on", "closed", "parts", "gated"
_SKIPPED = (25, 50, 75)  # per cent of the FLOPs that gates decide about


@dataclass(frozen=True)
class Case:
    """One way to run a domain on images float32 (B, 3, S, S).

    ``answer`` gives what the engine answers; None of the monolithic model. ``ends``: how many calls of the backend a
    picture takes that leaves at each exit, and, last, one that runs to the end.
    """

    name: str
    run: Callable[[Array], object]
    answer: Callable[[Array], BatchResult] | None
    ends: Array


@dataclass(frozen=True)
class Ran:
    """What a case's pictures took, on average. ``left``: share that left at each exit, and that ran to the end; empty
    where there are no exits. ``calls``: of the backend, that a picture went through."""

    flops_share: float
    left: list[float]
    calls: float


@contextmanager
def cases_of(runtime: Runtime, domain: str, threads: int | None) -> Iterator[list[Case]]:
    """Every case that there is for a domain; "monolithic" is there on ONNX Runtime alone.

    While they are in use, copies of the domain are loaded at whose exits nobody leaves.
    """
    before = runtime.domain
    loaded = runtime.use(domain)  # as it is in memory
    runtime.use(domain if before is None else before.name)
    copies = _copies(loaded)
    try:
        for copy in copies.values():
            runtime.load(copy)
        yield list(_cases(runtime, loaded, copies, threads))
    finally:
        for copy in copies.values():
            if copy.name in runtime.loaded:
                runtime.unload(copy.name)


def _cases(runtime: Runtime, domain: Domain, copies: Mapping[str, Domain], threads: int | None) -> Iterator[Case]:
    if runtime.backend == OrtBackend.name:
        yield Case(MONOLITHIC, _monolithic(runtime, domain, threads), None, np.ones(1))
    all_on = partial(runtime.run_batch, domain=domain.name, force_all_blocks=True)
    yield _engine(runtime, ALL_ON, domain._replace(closed=(), exits=()), all_on)
    for name, copy in copies.items():
        yield _engine(runtime, name, copy, partial(runtime.run_batch, domain=copy.name))
    yield _engine(runtime, GATED, domain, partial(runtime.run_batch, domain=domain.name))
    for number in range(len(domain.exits)):
        forced = partial(runtime.run_batch, domain=domain.name, leave_at=number)
        yield _engine(runtime, f"exit-{number}", copies[PARTS], forced)
    if any(step.gate is not None for step in runtime.bundle.manifest.plan):
        yield from (_skipping(runtime, domain, per_cent) for per_cent in _SKIPPED)


def measure(runtime: Runtime, case: Case, batches: Sequence[Array]) -> Ran:
    """Run a case on every batch, untimed."""
    if case.answer is None:
        return Ran(1.0, [], 1.0)
    results = [case.answer(batch) for batch in batches]
    left = np.concatenate([result.left for result in results])
    shares = np.concatenate([result_shares(runtime.bundle.manifest, result) for result in results])
    by_exit = np.bincount(left, minlength=len(case.ends)) / len(left)
    return Ran(float(shares.mean()), by_exit.tolist() if len(case.ends) > 1 else [], float(case.ends[left].mean()))


def _copies(domain: Domain) -> dict[str, Domain]:
    """The domain by case: as one part with its blocks closed, and in parts whose exits are asked and say no."""
    found = {}
    if domain.closed and domain.exits:
        rules = tuple(ExitRule(None, rule.temperature) for rule in domain.exits)
        found[CLOSED] = domain._replace(name=f"{domain.name}-{CLOSED}", exits=rules)
    if domain.exits:
        rules = tuple(ExitRule(1.0, rule.temperature) for rule in domain.exits)  # no confidence is above 1
        found[PARTS] = domain._replace(name=f"{domain.name}-{PARTS}", exits=rules)
    return found


def _engine(runtime: Runtime, name: str, domain: Domain, run: Callable[[Array], BatchResult]) -> Case:
    """A case in which the backend is called as it is for `domain`."""
    leaves = any(rule.threshold is not None for rule in domain.exits)
    manifest, ahead = runtime.bundle.manifest, runtime.backend == TensorRTBackend.name
    layout = join_plan(manifest, ahead, closed=domain.closed, leaves=leaves)
    done = np.cumsum([not call.subgraph.host for call in layout.calls])
    exits = {call.exit: int(count) for call, count in zip(layout.calls, done, strict=True)}
    count = sum(step.exit for step in manifest.plan)
    ends = np.array([exits.get(number, done[-1]) for number in range(count)] + [done[-1]])
    return Case(name, run, run, ends)


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


def _skipping(runtime: Runtime, domain: Domain, per_cent: int) -> Case:
    """``skip-50`` and the like: that percentage of the gateable FLOPs is skipped, whatever the gates say."""
    blocks = runtime.bundle.manifest.blocks
    chosen = choose_blocks(blocks, per_cent / 100.0)
    gates = {i: i not in chosen for i, block in enumerate(blocks) if block.skip_flops is not None}
    return _engine(runtime, f"skip-{per_cent}", domain, partial(runtime.run_batch, domain=domain.name, gates=gates))


def _monolithic(runtime: Runtime, domain: Domain, threads: int | None) -> Callable[[Array], object]:
    """The domain's network as one ordinary ONNX model. Raises BackendError where the engine answers otherwise."""
    session = open_session(write_model(whole_model(runtime.bundle, domain)), threads)
    size = runtime.preprocessing.size
    grey = np.zeros((1, 3, size, size), np.float32)
    found = session.run([LOGITS], {IMAGE: grey})[0]
    expected = runtime.run_batch(grey, domain.name, force_all_blocks=True).logits
    if np.abs(found - expected).max() > 1e-3 * max(1.0, np.abs(expected).max()):
        raise BackendError("the engine and one model of the same network answer differently: report this")
    return lambda images: session.run([LOGITS], {IMAGE: images})
