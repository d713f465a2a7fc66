"""Predicting files with a bundle: they are decoded, run in batches, and collected with what each batch took.

Nothing here parses arguments. All that is printed is progress and the files that cannot be read, both on stderr.
"""

import sys
import time
from typing import Callable, List, NamedTuple, Optional, Sequence, TextIO, Tuple

from ..engine import Runtime
from ..errors import ImageError
from ..images.inputs import in_batches, read_inputs
from ..images.paths import expand
from ..records import Array, BatchResult, Prediction
from .printing import printable

_PROGRESS_AFTER_S = 2.0

RunBatch = Callable[[Array], BatchResult]


class TimedResult(NamedTuple):
    """The result of a batch, and the seconds that each of its timed runs took."""

    result: BatchResult
    seconds: List[float]


class Run(NamedTuple):
    """What one command did. decode_s: seconds per image, preprocessing included; batch_s: seconds of each timed run
    of a batch, engine only; images_per_second: of the engine; failed: (path, error) of what could not be read; exits:
    how many the domain has."""

    predictions: List[Tuple[str, Prediction]]
    failed: List[Tuple[str, str]]
    decode_s: List[float]
    batch_s: List[float]
    images_per_second: float
    batch_size: int
    domain: str
    exits: int

    @property
    def flops_share(self) -> float:
        """Mean share of the blocks' operations that ran."""
        return sum(p.flops_share for _, p in self.predictions) / len(self.predictions)


def run_once(run_batch: RunBatch, batch: Array) -> TimedResult:
    """Run the batch and say what it took."""
    start = time.perf_counter()
    result = run_batch(batch)
    return TimedResult(result, [time.perf_counter() - start])


def predict(
    images: Sequence[str],
    *,
    bundle: str = "bundle",
    domain: Optional[str] = None,
    batch_size: int = 1,
    force_all_blocks: bool = False,
    threads: Optional[int] = None,
    backend: str = "auto",
    precision: Optional[str] = None,
    engines: Optional[str] = None,
    run: Callable[[RunBatch, Array], TimedResult] = run_once,
    stdin: Optional[TextIO] = None,
    stderr: Optional[TextIO] = None,
) -> Run:
    """Predict files, folders, globs, .npy files and `-` (paths on stdin).

    domain: a name in the bundle or a pack's path; None is the only one there is. run: how each batch is run, once
    unless it is to be measured; the rest is as for Runtime. A file that cannot be read is named on stderr, listed in
    `failed`, and the others still run; if none can be read, ImageError.
    """
    err = sys.stderr if stderr is None else stderr
    paths = expand(images, stdin)
    with Runtime(bundle, backend=backend, threads=threads, precision=precision, engines=engines) as runtime:
        used = runtime.use_only() if domain is None else runtime.load(domain)
        name = used.name
        failed: List[Tuple[str, str]] = []
        decode_s: List[float] = []
        batch_s: List[float] = []
        predictions: List[Tuple[str, Prediction]] = []
        images_run = 0
        progress = _Progress(err, len(paths))

        def run_batch(batch: Array) -> BatchResult:
            return runtime.run_batch(batch, name, force_all_blocks)

        def skip(path: str, error: ImageError) -> None:
            failed.append((path, str(error)))
            err.write("skipped: %s\n" % printable(str(error)))

        for batch in in_batches(read_inputs(paths, runtime.preprocessing, skip), batch_size):
            result, seconds = run(run_batch, batch.images)
            images_run += len(batch.names) * len(seconds)
            batch_s.extend(seconds)
            decode_s.extend(batch.seconds)
            predictions.extend(zip(batch.names, runtime.predictions(result)))
            progress.show(len(predictions), len(failed))
        progress.end()
    if not predictions:
        raise ImageError("none of the %d images could be read" % len(failed))
    return Run(
        predictions=predictions,
        failed=failed,
        decode_s=decode_s,
        batch_s=batch_s,
        images_per_second=images_run / sum(batch_s),
        batch_size=batch_size,
        domain=name,
        exits=len(used.exits),
    )


class _Progress:
    """A line on stderr that counts images, when that is a terminal and the work takes more than two seconds."""

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
