"""Timing the engine against one monolithic model of the same network. Decoding is never part of it."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from da3.runtime.backends.onnxruntime import OrtBackend
from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle.plan import IMAGE, LOGITS
from da3.runtime.engine import Runtime
from da3.runtime.errors import BackendError, ImageError
from da3.runtime.images.paths import evenly, expand
from da3.runtime.onnx_graph.whole import whole_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.records import Array, Block
from da3.runtime.schedule.flops import flops_share
from da3.runtime.system.machine import conditions
from da3.runtime.system.percentiles import percentiles_ms
from da3.toolchain.bench.engine_process import start_fresh

NAMES = ("monolithic", "all-on", "gated", "skip-25", "skip-50", "skip-75")
LOADED = (1, 10, 100)  # domains in memory while a switch is timed
_BURST = 32  # batches in a row: as in use, caches hold the case's own weights, not the one's before

Report = dict[str, Any]


def compare(
    runtime: Runtime,
    images: Array,
    domain: str,
    repeats: int = 10,
    batch_size: int = 1,
    names: Sequence[str] = NAMES,
    threads: int | None = None,
) -> Report:
    """The cases of NAMES in turns (A B C A B C ...) in one process, so that all meet the same machine.

    images: float32 (N, 3, size, size), already preprocessed, in batches of batch_size; a turn times each case on up to
    32 batches after an untimed one. `skip-50` closes gateable blocks that hold half of their FLOPs, whatever the gates
    say. Returns {"rows": [{"name", "batch", "flops_share", "p50_ms", "p90_ms", "p99_ms", "images_per_second",
    "ratio_to_monolithic", "gain_per_flop"}], "break_even_skip", "ratio": all-on's median over gated's, "domain",
    "conditions"}; what there is no figure for is None.
    """
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    # A short last batch would mix two sizes in one median.
    batches = [b for b in batches if len(b) == batch_size]
    if not batches or repeats < 1:
        raise ImageError("nothing to time: %d images, batches of %d, %d repeats" % (len(images), batch_size, repeats))
    blocks = runtime.bundle.manifest.blocks
    cases, shares = _cases(runtime, domain, names, threads)
    if "gated" in cases:
        shares["gated"] = _mean_share(blocks, [runtime.run_batch(batch, domain).blocks for batch in batches])
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repeats):
        burst = [batches[(turn * _BURST + i) % len(batches)] for i in range(min(_BURST, len(batches)))]
        for name, case in cases.items():
            case(burst[-1])
            for batch in burst:
                start = time.perf_counter()
                case(batch)
                seconds[name].append(time.perf_counter() - start)
    rows = [_row(name, batch_size, shares[name], seconds) for name in cases]
    setting = conditions()
    setting.update(
        image_size=runtime.preprocessing.size,
        images=len(batches) * batch_size,
        batch=batch_size,
        repeats=repeats,
        burst=min(_BURST, len(batches)),
        backend=runtime.backend,
        threads=threads or "the backend's choice",
        timed="the engine alone: no decoding, no preprocessing",
    )
    p50 = {row["name"]: row["p50_ms"] for row in rows}
    return {
        "rows": rows,
        "break_even_skip": _break_even(rows),
        "ratio": p50["all-on"] / p50["gated"] if {"all-on", "gated"} <= set(p50) else None,
        "domain": domain,
        "conditions": setting,
    }


def bench_bundle(
    bundle: str,
    domain: str | None = None,
    images: Sequence[str] | None = None,
    most: int = 32,
    repeats: int = 10,
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    backend: str = "auto",
) -> Report:
    """`compare` for a bundle on disk and every batch size, and beside it:

    "switch_us" (with 100 domains loaded; "switch_us_by_loaded" has 1 and 10 too), "cold_load_ms" of a domain,
    "startup_ms" from the start of a process to its first answer, and "memory_bytes": the most that process held.

    domain: None is the only one there is. images: what `Runtime.run` takes as paths, of which at most `most`
    are used, spread evenly over them; None is that many images of noise, on which gates mean little.
    """
    with Runtime(bundle, backend=backend, threads=threads) as runtime:
        name = runtime.use_only().name if domain is None else runtime.load(domain).name
        size = runtime.preprocessing.size
        if images:
            pixels = np.concatenate(list(runtime.prepare(evenly(expand(images), most))))
        else:
            pixels = np.random.RandomState(0).normal(0, 1, (most, 3, size, size)).astype(np.float32)
        reports = [compare(runtime, pixels, name, repeats, batch, threads=threads) for batch in batch_sizes]
        report = reports[0]
        report["rows"] = [row for one in reports for row in one["rows"]]
        report["conditions"]["batch"] = list(batch_sizes)
        report["conditions"]["pictures"] = "photos" if images else "noise"
        report["cold_load_ms"] = cold_load_ms(runtime, domain or name)
        report["switch_us_by_loaded"] = {str(n): switch_us(runtime, name, n) for n in LOADED}
        report["switch_us"] = report["switch_us_by_loaded"][str(LOADED[-1])]
    report.update(start_fresh(bundle, domain or name, threads, backend))
    return report


def switch_us(runtime: Runtime, name: str, loaded: int, repeats: int = 500) -> float:
    """Median microseconds of `use` with so many domains in memory: copies of `name`, in turn; with one, itself."""
    before = runtime.domain
    source = runtime.use(name)
    copies = [source._replace(name="%s-%d" % (name, i)) for i in range(1, loaded)]
    for copy in copies:
        runtime.load(copy)
    names = itertools.cycle([name] + [copy.name for copy in copies])
    times: list[float] = []
    for _ in range(repeats):
        following = next(names)
        start = time.perf_counter()
        runtime.use(following)
        times.append(time.perf_counter() - start)
    for copy in copies:
        runtime.unload(copy.name)
    runtime.use(name if before is None else before.name)
    return statistics.median(times) * 1e6


def cold_load_ms(runtime: Runtime, name: str, repeats: int = 10) -> float:
    """Median milliseconds to read, verify and bind a domain (a name of the bundle, or a pack's path)."""
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        runtime.load(name)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def choose_blocks(blocks: Sequence[Block], share: float) -> tuple[int, ...]:
    """Gateable blocks whose branches hold, as nearly as any set's, this share of all such branches' FLOPs."""
    sizes = {i: b.flops - b.skip_flops for i, b in enumerate(blocks) if b.skip_flops is not None}
    target = share * sum(sizes.values())
    # Sums that can be reached -> one way to; as whole thousandths, so that there are few.
    unit = max(sum(sizes.values()) / 1000.0, 1.0)
    ways: dict[int, tuple[int, ...]] = {0: ()}
    for block, size in sizes.items():
        for reached, way in list(ways.items()):
            ways.setdefault(reached + round(size / unit), (*way, block))
    return ways[min(ways, key=lambda reached: abs(reached - target / unit))]


def _cases(
    runtime: Runtime, domain: str, names: Sequence[str], threads: int | None
) -> tuple[dict[str, Callable[[Array], Any]], dict[str, float]]:
    """What to time, by name, and the share of FLOPs each runs, as far as it is known beforehand."""
    blocks = runtime.bundle.manifest.blocks
    cases: dict[str, Callable[[Array], Any]] = {}
    shares: dict[str, float] = {}
    for name in names:
        if name == "monolithic":
            if runtime.backend != OrtBackend.name:
                continue  # there is no such engine of it
            cases[name], shares[name] = _monolithic(runtime, domain, threads), 1.0
        elif name == "all-on":
            cases[name] = partial(runtime.run_batch, domain=domain, force_all_blocks=True)
            shares[name] = 1.0
        elif name == "gated":
            cases[name] = partial(runtime.run_batch, domain=domain)
        else:
            chosen = choose_blocks(blocks, int(name.split("-")[1]) / 100.0)
            gates = {i: i not in chosen for i, b in enumerate(blocks) if b.skip_flops is not None}
            ran = np.array([[gates.get(i, True) for i in range(len(blocks))]])
            cases[name] = partial(runtime.run_batch, domain=domain, gates=gates)
            shares[name] = _mean_share(blocks, [ran])
    return cases, shares


def _monolithic(runtime: Runtime, domain: str, threads: int | None) -> Callable[[Array], Any]:
    record = runtime.load(domain)
    session = open_session(write_model(whole_model(runtime.bundle, record)), threads)
    size = runtime.preprocessing.size
    grey = np.zeros((1, 3, size, size), np.float32)
    found = session.run([LOGITS], {IMAGE: grey})[0]
    expected = runtime.run_batch(grey, domain, force_all_blocks=True).logits
    if np.abs(found - expected).max() > 1e-3 * max(1.0, np.abs(expected).max()):
        raise BackendError("the engine and one model of the same network answer differently: report this")
    return lambda images: session.run([LOGITS], {IMAGE: images})


def _mean_share(blocks: Sequence[Block], ran: Sequence[Array]) -> float:
    return float(flops_share(blocks, np.concatenate(ran)).mean())


def _row(name: str, batch: int, share: float, seconds: dict[str, list[float]]) -> Report:
    row: Report = {"name": name, "batch": batch, "flops_share": share}
    row.update((f"{key}_ms", value) for key, value in percentiles_ms(seconds[name]).items())
    row["images_per_second"] = batch * 1e3 / row["p50_ms"]
    whole = percentiles_ms(seconds["monolithic"])["p50"] if "monolithic" in seconds else None
    row["ratio_to_monolithic"] = None if whole is None else row["p50_ms"] / whole
    saved = 1.0 - share
    # Time gained over FLOPs saved: 1 is an engine as fast as what remains.
    row["gain_per_flop"] = None if whole is None or saved < 1e-6 else (1.0 - row["ratio_to_monolithic"]) / saved
    return row


def _break_even(rows: Sequence[Report]) -> float | None:
    """Share of FLOPs to skip for the monolithic model's time, between the cases measured; None where none gets
    there."""
    points = sorted(
        (1.0 - row["flops_share"], row["ratio_to_monolithic"])
        for row in rows
        if row["ratio_to_monolithic"] is not None and (row["name"] == "all-on" or row["name"].startswith("skip-"))
    )
    if not points:
        return None
    if points[0][1] <= 1:
        return float(points[0][0])
    for (skipped, slow), (more, fast) in itertools.pairwise(points):
        if fast <= 1:
            return float(skipped + (more - skipped) * (slow - 1) / (slow - fast))
    return None
