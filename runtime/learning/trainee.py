"""A domain that is trained by graphs derived from its bundle, under the loop that all trainers share."""

from itertools import islice
from typing import Dict, Iterable, Iterator, Optional, Tuple

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.plan import DOMAIN, IMAGE
from ..records import Array, Domain
from ..schedule import saved_shares
from ..system.memory import peak_bytes
from ..training.checkpoint import Checkpoint
from ..training.closing import cheapest, closing_target, may_be_closed
from ..training.config import RunConfig
from ..training.loading import Batch
from ..training.recipe import CLOSE_FROM, CLOSED_BY, COST_BATCHES, FIT_BATCHES, WARM_UP, closing_share
from ..training.trainee import Photos, Pixels, Predict, StepResult, Trainee
from .adamw import AdamW
from .answering import Answering, answer_costs, exit_logits, undecided
from .closing import Closing
from .exit_features import ExitFeatures
from .making import FORCED, OBSERVATION, STEP
from .parameters import Parameters
from .running import GraphRunner, Running
from .statistics import fit_normalisation
from .step_graph import GRADIENT, LOSS, SCALE, TARGET


class GraphTrainee(Trainee):
    """One at a time is open of the graphs that it needs, since each holds the backbone."""

    warm_up = WARM_UP

    def __init__(self, bundle: Bundle, config: RunConfig, running: Running) -> None:
        """Raises BundleError for a bundle on which nothing can be learnt, BackendError for what cannot run."""
        self._bundle, self._config = bundle, config
        self._running = running
        self._preprocessing = bundle.manifest.preprocessing
        self._share_left = closing_share(config.keep)  # by closed blocks
        self.parameters = Parameters(bundle.manifest, len(config.classes), config.seed, self._share_left < 1)
        self._optimizer = AdamW()
        self._gradients: Dict[str, Array] = {}
        self._step: Optional[GraphRunner] = None
        self._answering: Optional[Answering] = None

    @property
    def micro_batch(self) -> int:
        return self._config.memory.micro_batch or 1

    def prepare(self, photos: Pixels) -> None:
        runner = self._open(OBSERVATION)

        def observe(images: Array, tensors: Dict[str, Array]) -> Dict[str, Array]:
            return runner.run(dict(_domain(tensors), image=images))

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
        target = closing_target(progress, self._share_left)
        saved = saved_shares(self._bundle.manifest.blocks).tolist()
        runner = None
        try:
            while True:
                still, now = own.open_blocks(), float(self.costs()[-1])
                candidates = may_be_closed(still, saved, now, self._share_left)
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
        for pixels, labels in batches:
            for i in range(0, len(labels), size):
                yield self._preprocessing.normalise(pixels[i : i + size]), labels[i : i + size]

    def gradients(self, batch: Batch, progress: float, done: int) -> StepResult:
        if self._step is None:
            self._step = self._open(STEP, self.parameters.closed)
        count, size = len(batch.labels), self.micro_batch
        feeds = _domain(self.parameters.fold())
        feeds[SCALE] = np.full(1, 1.0 / count, np.float32)
        sums: Dict[str, Array] = {}
        correct = 0
        for rows in (slice(i, i + size) for i in range(0, count, size)):
            labels = batch.labels[rows]
            feeds[IMAGE] = self._preprocessing.normalise(batch.pixels[rows])
            feeds[TARGET] = smoothed(labels, len(self._config.classes), self._config.label_smoothing)
            found = self._step.run(feeds)
            correct += int((found["logits"].argmax(axis=1) == labels).sum())
            for name, array in found.items():
                if name == LOSS or name.startswith(GRADIENT):
                    sums[name] = sums[name] + array if name in sums else array
        loss = float(sums.pop(LOSS)[0])
        self._gradients = self.parameters.unfold({name[len(GRADIENT) :]: g for name, g in sums.items()})
        return StepResult(loss, correct, float(self.costs()[-1]))

    def update(self, lr: float) -> None:
        self._optimizer.step(self.parameters.trained(), self._gradients, lr)
        self._gradients = {}

    def predict(self) -> Predict:
        self._close_step()
        self._answering = answering = Answering(self._bundle, self._running.backend)
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
        return peak_bytes()

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


def smoothed(labels: Array, classes: int, smoothing: float) -> Array:
    """float32 (B, classes): (1 - s) onehot + s / classes."""
    target = np.full((len(labels), classes), smoothing / classes, np.float32)
    target[np.arange(len(labels)), labels] += np.float32(1 - smoothing)
    return target


def _domain(tensors: Dict[str, Array]) -> Dict[str, Array]:
    return {DOMAIN + name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
