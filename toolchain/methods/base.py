"""What every training method offers to the one training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.runtime.training import AdaptorSpec, MemorySettings, StepResult
from da3.toolchain.backbones.registry import build_network
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.network.exits import with_exits
from da3.toolchain.network.model import Output
from da3.toolchain.network.slicing import images_a_slice
from da3.toolchain.network.totals import Total, own_total

Batch = tuple[Tensor, Tensor]  # pixels uint8 (B, S, S, 3), labels int64 (B,)
# A number -> training photos without end, in an order that belongs to the number.
Photos = Callable[[int], Generator[Batch, None, None]]
# Some normalised training images (B, 3, S, S), from the start at every call.
Images = Callable[[], Iterable[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be learnt: ``classes`` classes from images of ``size`` pixels with the backbone ``arch``.

    ``flops_budget`` is the share of the block FLOPs that may run on average, above 0 and up to 1. ``seed`` decides what
    da3 starts from; the other methods draw from PyTorch's own generator.
    """

    arch: str
    size: int
    classes: int
    flops_budget: float
    adaptor: AdaptorSpec
    memory: MemorySettings = field(default_factory=MemorySettings)
    seed: int = 0


def adaptor_spec(arch: str, weights: WeightsFile, size: int) -> AdaptorSpec:
    """The adaptors and exits that suit the backbone ``arch``, as its ``weights`` are, at images of ``size`` pixels."""
    with torch.device("meta"):
        network = build_network(arch, weights.width, weights.padding).split()
    return with_exits(AdaptorSpec.of(arch), network, size)


class Learner(ABC):
    """One method applied to one domain. ``model`` maps images (B, 3, S, S) to logits or to an Output. ``total`` sums
    over the processes that train it together, each of which sees its part of the photos."""

    name: str
    default_lr: float
    warm_up: float = 0.1  # share of all steps during which the learning rate rises
    sliceable: bool = False  # whether a batch may be cut, since no sample's gradient depends on another sample
    model: nn.Module
    total: Total

    def __init__(self, task: Task, weights: WeightsFile):
        self.task, self.total = task, own_total
        self.mean, self.std = weights.mean, weights.std
        self.width, self.padding = weights.width, weights.padding

    @abstractmethod
    def forward(self, images: Tensor) -> Output:
        """Normalised images (B, 3, S, S) -> every answer, in the mode last set."""

    @abstractmethod
    def domain_state(self) -> dict[str, Tensor]:
        """The tensors that make this domain, by name: what a checkpoint stores beside the frozen backbone."""

    def load_domain_state(self, state: dict[str, Tensor]) -> None:
        """Restore ``domain_state()``; names and shapes must match exactly."""
        own = self.domain_state()
        if own.keys() != state.keys():
            raise KeyError(f"expected {len(own)} tensors, found {len(state)}")
        self.model.load_state_dict(state, strict=False)

    def domain_bytes(self) -> int:
        """Bytes to store this domain: every floating-point number of ``domain_state()`` in fp16, as packs have it."""
        return sum(2 * tensor.numel() for tensor in self.domain_state().values() if tensor.is_floating_point())

    def prepare(self, images: Images) -> None:
        """Look at some training images before the first step. Default: nothing to do."""

    def revise(self, progress: float, photos: Photos) -> None:
        """Look at training photos again before the step at ``progress``. Default: nothing to do.

        Taking a batch may raise; what was found by then is lost, and the same call is made again later.
        """

    def train_mode(self, progress: float) -> None:
        """Get ready for a training step, ``progress`` (0 to 1) of the way through all steps."""
        self.model.train()

    def eval_mode(self) -> None:
        """Behave as deployed."""
        self.model.eval()

    def is_final(self, progress: float) -> bool:
        """Whether what is trained at ``progress`` already meets the task, so it may be kept as the best."""
        return True

    def answer_costs(self) -> list[float]:
        """Share of the block FLOPs that each answer takes: of each exit, then of the last one."""
        return [1.0]

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser updates."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> float32 (B, 3, S, S), the numbers of ``Preprocessing.normalise``."""
        images = pixels.float().div_(255)  # as Preprocessing.normalise does, in its order, for the same bits
        images -= torch.tensor(self.mean, device=pixels.device)
        images /= torch.tensor(self.std, device=pixels.device)
        return images.permute(0, 3, 1, 2)

    # -- one batch

    def step(self, pixels: Tensor, labels: Tensor, smoothing: float, whole: int | None = None) -> StepResult:
        """Forward and backward of a batch, in slices where the method allows; adds to every parameter's ``grad``.

        pixels uint8 (B, S, S, 3), labels int64 (B,). Any slicing gives the same gradients up to rounding. ``whole``:
        these are a part of a batch of so many photos, and what they give is their part of its mean loss.
        """
        count = len(labels) if whole is None else whole
        loss, share, correct = 0.0, self.answer_costs()[-1], 0
        for rows in self._slices(len(labels)):
            output = self.forward(self.normalise(pixels[rows]))
            slice_loss = self.loss(output, labels[rows], smoothing, count)
            slice_loss.backward()  # type: ignore[no-untyped-call]
            loss += float(slice_loss.detach())
            correct += int((output.logits.argmax(1) == labels[rows]).sum())
            share = output.share
            del output, slice_loss  # with what was kept for their backward pass, before the next slice keeps its own
        return StepResult(loss, correct, share)

    @property
    def micro_batch(self) -> int:
        """Images a slice: as asked for, or what suits the device."""
        return self.task.memory.micro_batch or self.slice_size

    @cached_property
    def slice_size(self) -> int:
        """Images a slice unless told otherwise."""
        with torch.device("meta"):
            network = build_network(self.task.arch, self.width, self.padding).split()
        flops = sum(f.total for f in network.block_flops(self.task.size))
        device = next(self.model.parameters()).device.type
        return images_a_slice(4 * network.largest_activation(self.task.size), flops, device)

    def _slices(self, count: int) -> Iterator[slice]:
        size = self.micro_batch if self.sliceable else count
        return (slice(i, min(i + size, count)) for i in range(0, count, size))

    def loss(self, output: Output, labels: Tensor, smoothing: float, count: int) -> Tensor:
        """What these samples contribute (a scalar) to the mean loss of a batch of ``count``."""
        return F.cross_entropy(output.logits, labels, label_smoothing=smoothing, reduction="sum") / count

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Output:
        """Answers for uint8 (B, S, S, 3) without gradients, a few images at a time to save memory."""
        return Output.joined([self.forward(self.normalise(few)) for few in torch.split(pixels, self.micro_batch)])
