"""Predicting files with a bundle: they are decoded, run in batches, and collected with what each batch took.

Nothing here parses arguments. All that is printed is progress and the files that cannot be read, both on stderr.
"""

import sys
from typing import Callable, List, NamedTuple, Optional, Sequence, TextIO, Tuple

from ..bundle.familiar import check_can_tell
from ..errors import ImageError, printable
from ..execution.timing import RunBatch, TimedResult, run_once
from ..images.inputs import in_batches, read_inputs
from ..images.paths import expand
from ..records import Array, BatchResult, Prediction
from .opening import Opening
from .progress import Progress


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


def predict(
    images: Sequence[str],
    opening: Opening,
    *,
    batch_size: int = 1,
    force_all_blocks: bool = False,
    run: Callable[[RunBatch, Array], TimedResult] = run_once,
    on_prediction: Optional[Callable[[str, Prediction], None]] = None,
    unknown_below: Optional[float] = None,
    stdin: Optional[TextIO] = None,
    stderr: Optional[TextIO] = None,
) -> Run:
    """Predict files, folders, globs, .npy files and `-` (paths on stdin).

    opening: with what. run: how each batch is run, once unless it is to be measured; on_prediction: called with each
    path and its answer, in order, while no batch runs; unknown_below: see `Runtime.predictions`. A file that cannot be
    read is named on stderr, listed in `failed`, and the others still run; if none can be read, ImageError.
    """
    err = sys.stderr if stderr is None else stderr
    paths = expand(images, stdin)
    with opening.runtime() as runtime:
        used = opening.domain_in(runtime)
        name = used.name
        if unknown_below is not None:
            check_can_tell(used, "--unknown-below")
        failed: List[Tuple[str, str]] = []
        decode_s: List[float] = []
        batch_s: List[float] = []
        predictions: List[Tuple[str, Prediction]] = []
        images_run = 0
        progress = Progress(err, len(paths), "paths")

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
            for path, prediction in zip(batch.names, runtime.predictions(result, unknown_below)):
                if on_prediction is not None:
                    on_prediction(path, prediction)
                predictions.append((path, prediction))
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
