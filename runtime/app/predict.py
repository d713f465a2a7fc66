"""The work behind `python -m da3.runtime` and `da3 run`: decode, run, time, collect. No argument parsing, no
printing but progress and the pictures that could not be read."""

import sys
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, TextIO, Tuple

import numpy as np

from ..engine import Runtime
from ..errors import ImageError
from ..images.paths import ARRAY_SUFFIX, expand
from ..records import Array, Prediction
from ..system.stats import percentiles_ms

_PROGRESS_AFTER_S = 2.0


class Run(NamedTuple):
    """What one command did. decode_s: seconds per image, preprocessing included; batch_s: seconds per timed
    batch, engine only; images_per_second: of the engine."""

    predictions: List[Tuple[str, Prediction]]
    failed: List[Tuple[str, str]]
    decode_s: List[float]
    batch_s: List[float]
    images_per_second: float
    batch_size: int
    domain: str

    @property
    def flops_share(self) -> float:
        """Mean share of the blocks' operations that ran."""
        return float(np.mean([p.flops_share for _, p in self.predictions]))


def run_engine(
    images: Sequence[str],
    bundle: str = "bundle",
    domain: Optional[str] = None,
    batch_size: int = 1,
    force_all_blocks: bool = False,
    repeat: int = 1,
    warmup: int = 1,
    threads: Optional[int] = None,
    backend: str = "auto",
    precision: Optional[str] = None,
    engines: Optional[str] = None,
    stdin: Optional[TextIO] = None,
    stderr: Optional[TextIO] = None,
) -> Run:
    """Predict files, folders, globs, .npy files and `-` (paths on stdin).

    domain: a name in the bundle or a pack's path; None is the only one there is. repeat: timed runs of each
    batch; warmup: untimed runs before the first batch of each size. A picture that cannot be read is named on
    stderr, listed in `failed`, and the others still run; if none can be read, ImageError.
    """
    err = sys.stderr if stderr is None else stderr
    if batch_size < 1 or repeat < 1 or warmup < 0:
        raise ImageError("batch size and repeat must be at least 1, warmup at least 0")
    paths = expand(images, stdin)
    with Runtime(bundle, backend, threads, precision, engines) as runtime:
        name = _choose(runtime, domain)
        failed: List[Tuple[str, str]] = []
        decode_s: List[float] = []
        batch_s: List[float] = []
        predictions: List[Tuple[str, Prediction]] = []
        warmed = set()
        measured = 0
        progress = _Progress(err, len(paths))
        source = _decoded(runtime, paths, failed, decode_s, err)
        for names, batch in _batches(source, batch_size):
            if len(batch) not in warmed:
                warmed.add(len(batch))
                for _ in range(warmup):
                    runtime.run_batch(batch, name, force_all_blocks)
            for _ in range(repeat):
                start = time.perf_counter()
                result = runtime.run_batch(batch, name, force_all_blocks)
                batch_s.append(time.perf_counter() - start)
                measured += len(batch)
            predictions.extend(zip(names, runtime.predictions(result)))
            progress.show(len(predictions), len(failed))
        progress.end()
    if not predictions:
        raise ImageError("none of the %d images could be read" % len(failed))
    return Run(predictions, failed, decode_s, batch_s, measured / sum(batch_s), batch_size, name)


def as_json(run: Run, top_k: int = 1) -> Dict[str, Any]:
    """The object that `--json` prints."""
    rows: List[Dict[str, Any]] = []
    for path, prediction in run.predictions:
        row: Dict[str, Any] = {
            "path": path,
            "label": prediction.label,
            "probability": prediction.probability,
            "blocks_run": prediction.blocks_run,
            "blocks_skipped": prediction.blocks_skipped,
        }
        if top_k > 1:
            row["top_k"] = [{"label": label, "probability": p} for label, p in prediction.top_k(top_k)]
        rows.append(row)
    return {
        "predictions": rows,
        "latency_ms": percentiles_ms(run.batch_s),
        "flops_share": run.flops_share,
        "batch_size": run.batch_size,
        "images_per_second": run.images_per_second,
        "domain": run.domain,
        "skipped_files": [{"path": path, "error": error} for path, error in run.failed],
    }


def render(run: Run, top_k: int = 1) -> str:
    """The same for people: a line per image, then the figures."""
    lines: List[str] = []
    for path, p in run.predictions:
        best = ", ".join("%s %.3f" % pair for pair in p.top_k(max(1, top_k)))
        lines.append("%s: %s (%d blocks run, %d skipped)" % (path, best, p.blocks_run, p.blocks_skipped))
    latency = percentiles_ms(run.batch_s)
    lines += [
        "",
        "latency per batch of %d: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms"
        " (%d runs; engine only, decoding excluded)"
        % (run.batch_size, latency["p50"], latency["p90"], latency["p99"], len(run.batch_s)),
        "engine: %.1f images/s; decoding and preprocessing: %.2f ms/image"
        % (run.images_per_second, float(np.mean(run.decode_s)) * 1e3),
        "block FLOPs skipped: %.1f %% on average" % (100 * (1 - run.flops_share)),
    ]
    return "\n".join(lines)


def _choose(runtime: Runtime, domain: Optional[str]) -> str:
    if domain is None:
        return runtime.use_only().name
    return runtime.load(domain).name


def _decoded(
    runtime: Runtime,
    paths: Sequence[str],
    failed: List[Tuple[str, str]],
    decode_s: List[float],
    err: TextIO,
) -> Iterator[Tuple[str, Array]]:
    """(name, float32 (3, size, size)) of every image that can be read; a .npy file gives several."""
    prep = runtime.preprocessing
    for path in paths:
        start = time.perf_counter()
        try:
            if path.endswith(ARRAY_SUFFIX):
                named = [("%s[%d]" % (path, i), x) for i, x in enumerate(_load_npy(runtime, path))]
            else:
                named = [(path, prep.normalise(prep.load(path)[None])[0])]
        except ImageError as error:
            failed.append((path, str(error)))
            err.write("skipped: %s\n" % error)
            continue
        decode_s.extend([(time.perf_counter() - start) / len(named)] * len(named))
        for item in named:
            yield item


def _load_npy(runtime: Runtime, path: str) -> List[Array]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ImageError("cannot read %s: %s" % (path, str(error).split("\n")[0]))
    try:
        return [x for batch in runtime.prepare(array, 32) for x in batch]
    except ImageError as error:
        raise ImageError("%s: %s" % (path, error))


def _batches(source: Iterator[Tuple[str, Array]], size: int) -> Iterator[Tuple[List[str], Array]]:
    names: List[str] = []
    arrays: List[Array] = []
    for name, array in source:
        names.append(name)
        arrays.append(array)
        if len(arrays) == size:
            yield names, np.stack(arrays)
            names, arrays = [], []
    if arrays:
        yield names, np.stack(arrays)


class _Progress:
    """A line on stderr, when that is a terminal and the work takes long enough to wonder."""

    def __init__(self, err: TextIO, total: int) -> None:
        self._err = err
        self._total = total
        self._start = time.time()
        self._last = 0.0
        self._tty = err.isatty()

    def show(self, done: int, failed: int) -> None:
        now = time.time()
        if self._tty and now - self._start > _PROGRESS_AFTER_S and now - self._last > 0.2:
            self._last = now
            self._err.write("\r%d images done, %d unreadable, %d paths" % (done, failed, self._total))
            self._err.flush()

    def end(self) -> None:
        if self._last:
            self._err.write("\r%s\r" % (" " * 60))
