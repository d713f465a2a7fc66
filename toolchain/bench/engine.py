"""How fast the engine is beside one monolithic model of the same network. Decoding is never part of the time."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from da3.runtime.engine import Runtime
from da3.runtime.errors import ImageError
from da3.runtime.images import evenly, expand
from da3.runtime.records import Array
from da3.runtime.system import conditions, percentiles_ms
from da3.toolchain.bench.engine_cases import ALL_ON, GATED, MONOLITHIC, Case, Ran, cases_of, measure
from da3.toolchain.bench.engine_process import start_fresh
from da3.toolchain.bench.reports import Comparison, EngineReport, EngineRow

LOADED = (1, 10, 100)  # domains in memory while a switch is timed
_BURST = 32  # batches in a row: as in use, caches hold the case's own weights, not those of the case before


def compare(
    runtime: Runtime,
    images: Array,
    domain: str,
    *,
    repeats: int = 10,
    batch_size: int = 1,
    names: Sequence[str] | None = None,
    threads: int | None = None,
) -> Comparison:
    """Time the cases in turns (A B C A B C ...) in one process, so that all meet the same machine.

    images: float32 (N, 3, size, size), already preprocessed, in batches of batch_size; a turn times each case on up to
    32 batches after an untimed one. names: of the cases; None is every one that there is for the domain. Raises
    ImageError where there is no whole batch to time.
    """
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    # A short last batch would mix two sizes in one median.
    batches = [batch for batch in batches if len(batch) == batch_size]
    if not batches or repeats < 1:
        raise ImageError(f"nothing to time: {len(images)} images, batches of {batch_size}, {repeats} repeats")
    with cases_of(runtime, domain, threads) as found:
        cases = [case for case in found if names is None or case.name in names]
        ran = {case.name: measure(runtime, case, batches) for case in cases}
        seconds: dict[str, list[float]] = {case.name: [] for case in cases}
        for turn in range(repeats):
            burst = [batches[(turn * _BURST + i) % len(batches)] for i in range(min(_BURST, len(batches)))]
            for case in cases:
                case.run(burst[-1])
                seconds[case.name].extend(_timed(case, burst))
    rows = _rows(batch_size, ran, seconds)
    p50 = {row["name"]: row["p50_ms"] for row in rows}
    return {
        "rows": rows,
        "break_even_skip": break_even(rows),
        "ratio": p50[ALL_ON] / p50[GATED] if {ALL_ON, GATED} <= set(p50) else None,
        "domain": domain,
        "conditions": {
            **conditions(),
            "image_size": runtime.preprocessing.size,
            "images": len(batches) * batch_size,
            "batch": batch_size,
            "repeats": repeats,
            "burst": min(_BURST, len(batches)),
            "backend": runtime.backend,
            "threads": threads or "the backend's choice",
            "timed": "the engine alone: no decoding, no preprocessing",
        },
    }


def bench_bundle(
    bundle: str | os.PathLike[str],
    domain: str | None = None,
    *,
    images: Sequence[str] | None = None,
    most: int = 32,
    repeats: int = 10,
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    backend: str = "auto",
) -> EngineReport:
    """`compare` for a bundle on disk and every batch size; and a domain's switch and load, and a fresh process.

    domain: None is the only one there is. images: what `Runtime.run` takes as paths, of which at most `most` are used,
    spread evenly over them; None is that many images of noise, on which gates mean little. Raises Da3Error where the
    bundle, the domain or an image cannot be used.
    """
    with Runtime(bundle, backend=backend, threads=threads) as runtime:
        name = runtime.use_only().name if domain is None else runtime.load(domain).name
        size = runtime.preprocessing.size
        if images:
            pixels = np.concatenate(list(runtime.prepare(evenly(expand(images), most))))
        else:
            pixels = np.random.RandomState(0).normal(0, 1, (most, 3, size, size)).astype(np.float32)
        found = [
            compare(runtime, pixels, name, repeats=repeats, batch_size=batch, threads=threads) for batch in batch_sizes
        ]
        load = cold_load_ms(runtime, domain or name)
        switches = {str(count): switch_us(runtime, name, count) for count in LOADED}
    pictures = "photos" if images else "noise"
    return {
        **found[0],
        "rows": [row for one in found for row in one["rows"]],
        "conditions": {**found[0]["conditions"], "batch": list(batch_sizes), "pictures": pictures},
        "cold_load_ms": load,
        "switch_us_by_loaded": switches,
        "switch_us": switches[str(LOADED[-1])],
        **start_fresh(bundle, domain or name, threads, backend),
    }


def switch_us(runtime: Runtime, name: str, loaded: int, repeats: int = 500) -> float:
    """Median microseconds of `use` with so many domains in memory: copies of `name`, in turn; with one, itself."""
    before = runtime.domain
    source = runtime.use(name)
    copies = [source._replace(name=f"{name}-{i}") for i in range(1, loaded)]
    for copy in copies:
        runtime.load(copy)
    names = itertools.cycle([name, *(copy.name for copy in copies)])
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


def break_even(rows: Sequence[EngineRow]) -> float | None:
    """Share of FLOPs to skip for the monolithic model's time, between the cases measured; None where none gets
    there."""
    points = sorted(
        (1.0 - row["flops_share"], row["ratio_to_monolithic"])
        for row in rows
        if row["ratio_to_monolithic"] is not None
        and (row["name"] == ALL_ON or row["name"].startswith(("skip-", "exit-")))
    )
    if not points:
        return None
    if points[0][1] <= 1:
        return points[0][0]
    for (skipped, slow), (more, fast) in itertools.pairwise(points):
        if fast <= 1:
            return skipped + (more - skipped) * (slow - 1) / (slow - fast)
    return None


def _timed(case: Case, batches: Sequence[Array]) -> Iterator[float]:
    """Seconds of each batch."""
    run = case.run
    for batch in batches:
        start = time.perf_counter()
        run(batch)
        yield time.perf_counter() - start


def _rows(batch: int, ran: Mapping[str, Ran], seconds: Mapping[str, list[float]]) -> list[EngineRow]:
    """One row for each case; ``ran`` and ``seconds`` are by the case's name."""
    found = {name: percentiles_ms(times) for name, times in seconds.items()}
    monolithic = found[MONOLITHIC]["p50"] if MONOLITHIC in found else None
    rows: list[EngineRow] = []
    for name, ms in found.items():
        ratio = None if monolithic is None else ms["p50"] / monolithic
        saved = 1.0 - ran[name].flops_share
        rows.append(
            {
                "name": name,
                "batch": batch,
                "flops_share": ran[name].flops_share,
                "left": ran[name].left,
                "calls": ran[name].calls,
                "p50_ms": ms["p50"],
                "p90_ms": ms["p90"],
                "p99_ms": ms["p99"],
                "images_per_second": batch * 1e3 / ms["p50"],
                "ratio_to_monolithic": ratio,
                # Time gained over FLOPs saved: 1 is an engine as fast as what remains.
                "gain_per_flop": None if ratio is None or saved < 1e-6 else (1.0 - ratio) / saved,
            }
        )
    return rows
