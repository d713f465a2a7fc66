"""A method's learner and its optimiser under the one loop of all trainers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from da3.runtime.familiarity import wanted_values
from da3.runtime.records import Array
from da3.runtime.training import Batch, Photos, Pixels, Predict, RunConfig, See, StepResult, Trainee
from da3.runtime.training.checkpoint import Checkpoint
from da3.runtime.training.recipe import BETAS, EPSILON, WEIGHT_DECAY
from da3.toolchain.methods import Learner
from da3.toolchain.network import DomainModel, own_total
from da3.toolchain.process.memory import peak_bytes
from da3.toolchain.training import checkpoint as ckpt
from da3.toolchain.training.adamw import AdamW
from da3.toolchain.training.exchange import exchanged


class TorchTrainee(Trainee):
    """A learner on its device."""

    def __init__(self, config: RunConfig, learner: Learner, device: torch.device):
        self.config, self.learner, self.device = config, learner, device
        self.warm_up = learner.warm_up
        self._optimizer = AdamW(learner.parameters(), lr=config.lr, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)

    @property
    def micro_batch(self) -> int:
        return self.learner.micro_batch

    def prepare(self, photos: Pixels) -> None:
        def images() -> Iterator[Tensor]:
            return (self.learner.normalise(self._tensor(pixels)) for pixels in photos())

        self.learner.prepare(images)

    def revise(self, progress: float, photos: Photos) -> None:
        def tensors(draw: int) -> Generator[tuple[Tensor, Tensor], None, None]:
            for pixels, labels, _ in photos(draw):
                yield self._tensor(pixels), self._tensor(labels)

        self.learner.revise(progress, tensors)

    def gradients(self, batch: Batch, progress: float, done: int) -> StepResult:
        # PyTorch's own generator is for the dropout of methods that only PyTorch trains: a function of the step alone,
        # so that a resumed run draws what an uninterrupted one would have.
        torch.manual_seed((self.config.seed * 1_000_003 + done) % 2**63)
        self.learner.train_mode(progress)
        self._optimizer.zero_grad(set_to_none=True)
        pixels, labels = self._tensor(batch.pixels), self._tensor(batch.labels)
        result = self.learner.step(pixels, labels, self.config.label_smoothing, batch.whole)
        return result if self.learner.total is own_total else exchanged(self.learner, result)

    def update(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def predict(self) -> Predict:
        self.learner.eval_mode()

        def answers(pixels: Array) -> Array:
            found: Array = self.learner.predict(self._tensor(pixels)).answers.cpu().numpy()
            return found

        return answers

    def places(self) -> Sequence[tuple[str, ...]]:
        model = self.learner.model
        return wanted_values(*model.seen_names) if isinstance(model, DomainModel) else ()

    def see(self, found: Checkpoint) -> See:
        ckpt.restore(self.learner, found)
        self.learner.eval_mode()
        model = self.learner.model
        assert isinstance(model, DomainModel)

        @torch.no_grad()
        def seen(pixels: Array) -> dict[str, Array]:
            slices = torch.split(self._tensor(pixels), self.micro_batch)
            parts = [ckpt.arrays_of(model.seen(self.learner.normalise(few))) for few in slices]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

        return seen

    def costs(self) -> Array:
        return np.array(self.learner.answer_costs())

    def is_final(self, progress: float) -> bool:
        return self.learner.is_final(progress)

    def model(self) -> dict[str, Array]:
        return ckpt.arrays_of(self.learner.domain_state())

    def optimizer(self) -> dict[str, Array]:
        return ckpt.optimizer_arrays(self._optimizer)

    def restore(self, found: Checkpoint) -> None:
        ckpt.restore(self.learner, found)
        ckpt.restore_optimizer(self._optimizer, found, self.device)

    def peak_bytes(self) -> int:
        return peak_bytes(self.device)

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)
