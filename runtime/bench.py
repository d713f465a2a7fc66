"""Timing the engine: gated against all blocks, switching, loading. Decoding is never part of it."""

import statistics
import time
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from .engine import Runtime
from .errors import ImageError
from .images import evenly, expand
from .records import Array
from .scheduler import flops_share
from .stats import conditions, percentiles_ms

_WARMUP = 3


def compare(runtime: Runtime, images: Array, domain: str, repeats: int = 20, batch_size: int = 1) -> Dict[str, Any]:
    """All blocks against gates, alternating (A B A B ...) in one process, so that both meet the same machine.

    images: float32 (N, 3, size, size), already preprocessed, run in batches of batch_size, each `repeats`
    times. Returns {"rows": [{"name": "all-on" | "gated", "batch", "flops_share", "p50_ms", "p90_ms",
    "p99_ms"}, ...],
    "ratio": all-on's median over gated's, "domain", "conditions"}.
    """
    batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    # A short last batch would mix two sizes in one median.
    batches = [b for b in batches if len(b) == batch_size]
    if not batches or repeats < 1:
        raise ImageError("nothing to time: %d images, batches of %d, %d repeats" % (len(images), batch_size, repeats))
    blocks = runtime.bundle.manifest.blocks
    names = ("all-on", "gated")
    seconds: Dict[str, List[float]] = {name: [] for name in names}
    shares: Dict[str, List[float]] = {name: [] for name in names}
    for turn in range(-_WARMUP, repeats):
        for batch in batches:
            for name in names:
                start = time.perf_counter()
                result = runtime.run_batch(batch, domain, force_all_blocks=name == "all-on")
                took = time.perf_counter() - start
                if turn >= 0:
                    seconds[name].append(took)
                if turn == 0:
                    shares[name].extend(float(s) for s in flops_share(blocks, result.blocks))
    rows = [_row(name, batch_size, shares[name], seconds[name]) for name in names]
    setting = conditions()
    setting.update(
        image_size=runtime.preprocessing.size,
        images=len(batches) * batch_size,
        batch=batch_size,
        repeats=repeats,
        warmup=_WARMUP,
        backend=runtime.backend,
        timed="the engine alone: no decoding, no preprocessing",
    )
    return {
        "rows": rows,
        "ratio": rows[0]["p50_ms"] / rows[1]["p50_ms"],
        "domain": domain,
        "conditions": setting,
    }


def bench_bundle(
    bundle: str,
    domain: Optional[str] = None,
    images: Optional[Sequence[str]] = None,
    most: int = 32,
    repeats: int = 20,
    batch_size: int = 1,
    threads: Optional[int] = None,
) -> Dict[str, Any]:
    """`compare` for a bundle on disk, with "switch_us" (None when it has one domain) and "cold_load_ms"
    beside it.

    domain: None is the only one there is. images: what `Runtime.run` takes as paths, of which at most `most`
    are used, spread evenly over them; None is that many images of noise, on which gates mean little.
    """
    with Runtime(bundle, threads=threads) as runtime:
        name = runtime.use_only().name if domain is None else runtime.load(domain).name
        size = runtime.preprocessing.size
        if images:
            pixels = np.concatenate(list(runtime.prepare(evenly(expand(images), most))))
        else:
            pixels = np.random.RandomState(0).normal(0, 1, (most, 3, size, size)).astype(np.float32)
        report = compare(runtime, pixels, name, repeats, batch_size)
        report["conditions"]["pictures"] = "photos" if images else "noise"
        report["cold_load_ms"] = cold_load_ms(runtime, domain or name)
        others = [other for other in runtime.bundle.domains if other != name]
        report["switch_us"] = switch_us(runtime, name, others[0])["switch_us"] if others else None
        return report


def switch_us(
    runtime: Runtime, first: str, second: str, image: Optional[Array] = None, repeats: int = 200
) -> Dict[str, float]:
    """Median microseconds of `use` between two loaded domains; with `image` (float32 (1, 3, size, size)) also
    of the first run after a switch and of a run without one, in turn."""
    before = runtime.domain
    for name in (first, second):
        runtime.use(name)
    times: List[float] = []
    for i in range(repeats):
        times.append(_timed(lambda i=i: runtime.use((first, second)[i % 2])))
    result = {"switch_us": statistics.median(times) * 1e6}
    if image is not None:
        after: List[float] = []
        again: List[float] = []
        for i in range(repeats):
            runtime.use((first, second)[i % 2])
            after.append(_timed(lambda: runtime.run_batch(image)))
            again.append(_timed(lambda: runtime.run_batch(image)))
        result["first_run_after_us"] = statistics.median(after) * 1e6
        result["run_us"] = statistics.median(again) * 1e6
    if before is not None:
        runtime.use(before.name)
    return result


def cold_load_ms(runtime: Runtime, name: str, repeats: int = 10) -> float:
    """Median milliseconds to read, verify and bind a domain (a name of the bundle, or a pack's path)."""
    return statistics.median(_timed(lambda: runtime.load(name)) for _ in range(repeats)) * 1e3


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _row(name: str, batch: int, shares: List[float], seconds: List[float]) -> Dict[str, Any]:
    row: Dict[str, Any] = {"name": name, "batch": batch, "flops_share": statistics.mean(shares)}
    row.update(("%s_ms" % key, value) for key, value in percentiles_ms(seconds).items())
    return row
