"""A domain that is trained by graphs derived from its bundle, under the loop that all trainers share."""

import math
from itertools import islice
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.familiar import seen_values
from ..bundle.plan import DOMAIN, IMAGE, LOGITS
from ..errors import TrainingError
from ..familiarity import wanted_values
from ..records import Array, Domain
from ..schedule import saved_shares
from ..system.memory import peak_bytes
from ..training.checkpoint import Checkpoint
from ..training.closing import cheapest, closing_target, may_be_closed
from ..training.config import RunConfig
from ..training.loading import Batch
from ..training.recipe import CLOSE_FROM, CLOSED_BY, COST_BATCHES, FIT_BATCHES, WARM_UP, closing_share
from ..training.trainee import Photos, Pixels, Predict, See, StepResult, Trainee
from .adamw import AdamW
from .answering import Answers, answer_costs, exit_logits, undecided
from .closing import Closing
from .exit_features import ExitFeatures
from .making import ANSWERS, FORCED, OBSERVATION, STEP
from .parameters import Parameters
from .runner import GraphRunner
from .running import Running
from .statistics import fit_normalisation
from .step_graph import GRADIENT, LOSS, SCALE, TARGET

SKIPPED_AT_MOST = 20  # steps one after the other: that many are no accident of a few photos


class GraphTrainee(Trainee):
    """One at a time is open of the graphs that it needs, since each holds the backbone."""

    warm_up = WARM_UP

    def __init__(self, bundle: Bundle, config: RunConfig, running: Running) -> None:
        """Raises BundleError for a bundle on which nothing can be learnt, BackendError for what cannot run."""
        self._bundle, self._config = bundle, config
        self._running = running
        self._preprocessing = bundle.manifest.preprocessing
        self.share_left = closing_share(config.keep)  # by closed blocks
        self.parameters = Parameters(bundle.manifest, len(config.classes), config.seed, self.share_left < 1)
        self._optimizer = AdamW()
        self._gradients: Dict[str, Array] = {}
        self._step: Optional[GraphRunner] = None
        self._answering: Optional[Answers] = None
        self._skipped = 0  # steps, one after the other

    @property
    def micro_batch(self) -> int:
        return self._config.memory.micro_batch or min(self._running.usual_slice, self._config.batch_size)

    def make_graphs(self, new: bool) -> None:
        """Make the graphs that take long to make, of a run that is `new` or gone on with, so that the user waits for
        them once and learns soon what fails. Raises BundleError or BackendError."""
        kinds = ([OBSERVATION] if new else []) + [STEP, ANSWERS]
        self._running.make(kinds, self._bundle, len(self._config.classes), self.parameters.closed)

    def prepare(self, photos: Pixels) -> None:
        runner = self._open(OBSERVATION)
        kept: Optional[Dict[str, Array]] = None

        def observe(images: Array, tensors: Dict[str, Array]) -> Dict[str, Array]:
            nonlocal kept
            if tensors is not kept:
                runner.keep(_domain(tensors))
                kept = tensors
            return runner.run({IMAGE: images})

        def images() -> Iterator[Array]:
            return (self._preprocessing.normalise(pixels) for pixels in photos())

        try:
            fit_normalisation(self.parameters, observe, ExitFeatures(self._bundle), images)
        finally:
            runner.close()

    def revise(self, progress: float, photos: Photos) -> None:
        own = self.parameters
        if not own.may_close or progress < CLOSE_FROM:
            return
        target = closing_target(progress, self.share_left)
        saved = saved_shares(self._bundle.manifest.blocks).tolist()
        runner = None
        try:
            while True:
                still, now = own.open_blocks(), float(self.costs()[-1])
                candidates = may_be_closed(still, saved, now, self.share_left)
                if now <= target or not candidates:
                    return
                if runner is None:
                    self._close_step()
                    runner = self._open(FORCED)
                    closing = Closing(own, exit_logits(self._bundle.manifest), runner)
                batches = photos(len(still))
                try:
                    closing.fit_bypasses(self._in_slices(islice(batches, FIT_BATCHES)))
                    costs = closing.costs(self._in_slices(islice(batches, COST_BATCHES)), candidates)
                finally:
                    batches.close()
                own.close(cheapest(costs, saved))
        finally:
            if runner is not None:
                runner.close()

    def _in_slices(self, batches: Iterable[Batch]) -> Iterator[Tuple[Array, Array]]:
        size = self.micro_batch
        for pixels, labels, _ in batches:
            for i in range(0, len(labels), size):
                yield self._preprocessing.normalise(pixels[i : i + size]), labels[i : i + size]

    def gradients(self, batch: Batch, progress: float, done: int) -> StepResult:
        if self._step is None:
            self._step = self._open(STEP, self.parameters.closed)
        count, size = len(batch.labels), self.micro_batch
        classes, scaled = len(self._config.classes), self._running.loss_scale
        self._step.keep(_domain(self.parameters.fold()))
        sums: Dict[str, Array] = {}
        correct = 0

        def feeds(rows: slice) -> Dict[str, Array]:
            labels = batch.labels[rows]
            return {
                IMAGE: self._preprocessing.normalise(batch.pixels[rows]),
                TARGET: smoothed(labels, classes, self._config.label_smoothing),
                SCALE: np.full((len(labels), 1), scaled / count, np.float32),
            }

        for start in range(0, count, size):
            parts = in_parts(start, min(start + size, count), self._running.lanes)
            for rows, found in zip(parts, self._step.run_side_by_side([feeds(rows) for rows in parts])):
                correct += int((found[LOGITS].argmax(axis=1) == batch.labels[rows]).sum())
                for name in [name for name in found if name == LOSS or name.startswith(GRADIENT)]:
                    array = found.pop(name)  # gone before the next slice has its own
                    sums[name] = sums[name] + array if name in sums else array
        if scaled != 1:
            sums = {name: array / np.float32(scaled) for name, array in sums.items()}
        loss = float(sums.pop(LOSS)[0])
        share = float(self.costs()[-1])
        if scaled != 1 and not (math.isfinite(loss) and all(np.isfinite(array).all() for array in sums.values())):
            self._count_skipped()
            return StepResult(loss if math.isfinite(loss) else math.log(classes), correct, share, skipped=True)
        self._skipped = 0
        self._gradients = self.parameters.unfold({name[len(GRADIENT) :]: g for name, g in sums.items()})
        return StepResult(loss, correct, share)

    def _count_skipped(self) -> None:
        self._skipped += 1
        if self._skipped >= SKIPPED_AT_MOST:
            raise TrainingError(
                "%d steps one after the other had gradients that fp16 does not hold: go on with --resume --precision "
                "fp32, or learn again with a lower --lr (it is %g)" % (self._skipped, self._config.lr)
            )

    def update(self, lr: float) -> None:
        self._optimizer.step(self.parameters.trained(), self._gradients, lr)
        self._gradients = {}

    def predict(self) -> Predict:
        self._close_step()
        classes, closed = len(self._config.classes), self.parameters.closed
        self._answering = answering = self._running.answers(self._bundle, classes, closed)
        answering.use(self.domain())
        size = self.micro_batch

        def answers(pixels: Array) -> Array:
            slices = (pixels[i : i + size] for i in range(0, len(pixels), size))
            return np.concatenate([answering(self._preprocessing.normalise(few)) for few in slices])

        return answers

    def predicted(self) -> None:
        if self._answering is not None:
            self._answering.close()
            self._answering = None

    def places(self) -> Sequence[Tuple[str, ...]]:
        return wanted_values(*seen_values(self._bundle.manifest))

    def see(self, found: Checkpoint) -> See:
        self.parameters.load(found.model, found.path)
        self.predict()
        answering, size = self._answering, self.micro_batch
        assert answering is not None

        def seen(pixels: Array) -> Dict[str, Array]:
            slices = (self._preprocessing.normalise(pixels[i : i + size]) for i in range(0, len(pixels), size))
            parts = [answering.see(few) for few in slices]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        return seen

    def domain(self) -> Domain:
        """What is learnt by now, as the engine runs it; nobody leaves at its exits."""
        own, config = self.parameters, self._config
        return undecided(self._bundle.manifest, config.domain, config.classes, own.fold(), own.closed)

    def costs(self) -> Array:
        return answer_costs(self._bundle.manifest, self.parameters.closed)

    def is_final(self, progress: float) -> bool:
        return not self.parameters.may_close or progress > CLOSED_BY

    def model(self) -> Dict[str, Array]:
        return self.parameters.state()

    def optimizer(self) -> Dict[str, Array]:
        return self._optimizer.state()

    def restore(self, found: Checkpoint) -> None:
        self.parameters.load(found.model, found.path)
        self._optimizer.load(found.optimizer, self.parameters.trained(), found.path)

    def peak_bytes(self) -> int:
        return peak_bytes() + self._running.device_bytes

    def _open(self, kind: str, closed: Tuple[int, ...] = ()) -> GraphRunner:
        return self._running.open(kind, self._bundle, len(self._config.classes), closed)

    def close(self) -> None:
        """Free the graphs, and remove their files."""
        self.predicted()
        self._close_step()
        self._running.close()

    def _close_step(self) -> None:
        if self._step is not None:
            self._step.close()
            self._step = None


def in_parts(start: int, stop: int, most: int) -> List[slice]:
    """The rows from `start` to `stop` as at most so many slices of nearly equal length."""
    count = min(most, stop - start)
    ends = [start + (stop - start) * i // count for i in range(count + 1)]
    return [slice(one, other) for one, other in zip(ends, ends[1:])]


def smoothed(labels: Array, classes: int, smoothing: float) -> Array:
    """float32 (B, classes): (1 - s) onehot + s / classes."""
    target = np.full((len(labels), classes), smoothing / classes, np.float32)
    target[np.arange(len(labels)), labels] += np.float32(1 - smoothing)
    return target


def _domain(tensors: Dict[str, Array]) -> Dict[str, Array]:
    return {DOMAIN + name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
