"""A domain's answers to labelled photos, which are decoded in threads ahead of the engine."""

import time
from collections import deque
from typing import Callable, Deque, Dict, Generator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..engine import Runtime
from ..errors import ImageError
from ..execution.timing import Repeated, RunBatch, TimedResult
from ..images.inputs import Input, in_batches
from ..images.preprocess import Preprocessing
from ..records import Array, BatchResult, Domain, Prediction
from ..system.ahead import default_workers, done_ahead
from .foreign import Foreign
from .labelled import LabelledPhotos

Progress = Callable[[int, int, int], None]


class Answered(NamedTuple):
    """One photo's answer; a record holds it, so it has no arrays.

    label, answer: indices of classes. probability: that of the answer; label_probability: that of the label. rank: the
    label's place among the classes by probability, 1 where the answer is right. exit: where it left, None if it ran to
    the end. engine_s: seconds, of the run of its batch divided by that batch's photos. known, familiarity: see
    Prediction.
    """

    path: str
    label: int
    answer: int
    probability: float
    label_probability: float
    rank: int
    exit: Optional[int]
    blocks_run: int
    flops_share: float
    engine_s: float
    known: Optional[bool] = None
    familiarity: Optional[float] = None

    @property
    def correct(self) -> bool:
        return self.answer == self.label


class Settings(NamedTuple):
    """What was evaluated, and how. precision: None if TensorRT's engines that were built last were taken. workers:
    decoding threads beside the engine, 0 if photos were decoded between its runs."""

    bundle: str
    backend: str
    precision: Optional[str]
    threads: Optional[int]
    batch_size: int
    workers: int
    force_all_blocks: bool


class Evaluation(NamedTuple):
    """answered: a row for each photo that could be read, in order. unreadable: (path, why). blocks: int64 (classes,
    blocks), of how many photos of a class each backbone block ran. block_names: theirs. batch_s: seconds of every
    timed run of a batch. seconds: from the first photo to the last, decoding included. decode_s: seconds that decoding
    and preprocessing took, added up over threads. foreign: what was asked about pictures that are none of its own."""

    domain: Domain
    arch: str
    settings: Settings
    photos: LabelledPhotos
    answered: Tuple[Answered, ...]
    unreadable: Tuple[Tuple[str, str], ...]
    blocks: Array
    block_names: Tuple[str, ...]
    batch_s: Tuple[float, ...]
    seconds: float
    decode_s: float
    foreign: Optional[Foreign] = None


class _Decoded(NamedTuple):
    input: Optional[Input]
    path: str
    label: int
    error: str = ""


def evaluate(
    runtime: Runtime,
    photos: LabelledPhotos,
    domain: Domain,
    *,
    batch_size: int = 1,
    workers: Optional[int] = None,
    force_all_blocks: bool = False,
    threads: Optional[int] = None,
    precision: Optional[str] = None,
    run: Optional[Callable[[RunBatch, Array], TimedResult]] = None,
    on_progress: Progress = lambda done, failed, total: None,
) -> Evaluation:
    """Ask a domain, as `runtime.load` or `runtime.use` gave it, about every photo.

    workers: decoding threads ahead of the engine (None: one a core, four at most; 0: photos are decoded in turn with
    the engine, so that nothing runs beside it when it is timed). run: how each batch is run; once, after one untimed
    run of the first batch of each size, if it is not given. threads, precision: those of the Runtime, for the record.
    on_progress: called with the photos answered, unreadable and in all. Beside what it returns it holds some batches
    of photos and no more. Raises ImageError where no photo can be read.
    """
    workers = default_workers() if workers is None else max(0, workers)
    run = Repeated(1, 1) if run is None else run
    manifest = runtime.bundle.manifest
    answered: List[Answered] = []
    unreadable: List[Tuple[str, str]] = []
    ran: Dict[Tuple[int, Tuple[bool, ...]], int] = {}  # how many photos of a class ran these blocks
    batch_s: List[float] = []
    decode_s = 0.0
    labels: Deque[int] = deque()  # of the inputs that wait for their batch
    decoded = _decoded(photos.photos, runtime.preprocessing, workers, batch_size)

    def inputs() -> Generator[Input, None, None]:
        for one in decoded:
            if one.input is None:
                unreadable.append((one.path, one.error))
            else:
                labels.append(one.label)
                yield one.input

    def run_batch(batch: Array) -> BatchResult:
        return runtime.run_batch(batch, domain.name, force_all_blocks)

    start = time.perf_counter()
    try:
        for batch in in_batches(inputs(), batch_size):
            result, seconds = run(run_batch, batch.images)
            each = sum(seconds) / len(seconds) / len(batch.names)
            batch_s.extend(seconds)
            decode_s += sum(batch.seconds)
            for path, prediction in zip(batch.names, runtime.predictions(result)):
                label = labels.popleft()
                ran[label, prediction.blocks] = ran.get((label, prediction.blocks), 0) + 1
                answered.append(_row(path, label, prediction, each))
            on_progress(len(answered), len(unreadable), len(photos.photos))
    finally:
        decoded.close()
    spent = time.perf_counter() - start
    if not answered:
        raise ImageError("none of the %d photos could be read: %s" % (len(unreadable), unreadable[0][1]))
    return Evaluation(
        domain=domain,
        arch=manifest.arch,
        settings=Settings(
            bundle=runtime.bundle.path,
            backend=runtime.backend,
            precision=precision or (None if runtime.backend == "tensorrt" else "fp32"),
            threads=threads,
            batch_size=batch_size,
            workers=workers,
            force_all_blocks=force_all_blocks,
        ),
        photos=photos,
        answered=tuple(answered),
        unreadable=tuple(unreadable),
        blocks=_blocks_by_class(ran, len(domain.classes), len(manifest.blocks)),
        block_names=tuple(block.name for block in manifest.blocks),
        batch_s=tuple(batch_s),
        seconds=spent,
        decode_s=decode_s,
    )


def _decoded(
    photos: Sequence[Tuple[str, int]], prep: Preprocessing, workers: int, batch_size: int
) -> Generator[_Decoded, None, None]:
    """Every photo as the network takes it, or why it cannot be read, in order."""

    def load(photo: Tuple[str, int]) -> _Decoded:
        path, label = photo
        start = time.perf_counter()
        try:
            pixels = prep.normalise(prep.load(path)[None])[0]
        except ImageError as error:
            return _Decoded(None, path, label, str(error))
        return _Decoded(Input(path, pixels, time.perf_counter() - start), path, label)

    if workers:
        return done_ahead(load, photos, workers, batch_size)
    return (load(photo) for photo in photos)


def _blocks_by_class(ran: Mapping[Tuple[int, Tuple[bool, ...]], int], classes: int, blocks: int) -> Array:
    """int64 (classes, blocks), see Evaluation, from how many photos of a class ran these blocks."""
    found = np.zeros((classes, blocks), np.int64)
    for (label, which), photos in ran.items():
        found[label] += photos * np.array(which, np.int64)
    return found


def _row(path: str, label: int, prediction: Prediction, engine_s: float) -> Answered:
    rank = 1
    if prediction.index != label:
        logits = prediction.logits
        # Of equal classes the first is the answer, so it has the better rank too.
        rank += int((logits > logits[label]).sum()) + int((logits[:label] == logits[label]).sum())
    return Answered(
        path=path,
        label=label,
        answer=prediction.index,
        probability=prediction.probability,
        label_probability=float(prediction.probabilities[label]),
        rank=rank,
        exit=prediction.exit,
        blocks_run=prediction.blocks_run,
        flops_share=prediction.flops_share,
        engine_s=engine_s,
        known=prediction.known,
        familiarity=prediction.familiarity,
    )
