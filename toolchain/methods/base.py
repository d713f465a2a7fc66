"""What every training method offers to the one training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from da3.runtime.training import AdaptorSpec, MemorySettings, StepResult
from da3.toolchain.autograd.parts import slices
from da3.toolchain.backbones.registry import build_network
from da3.toolchain.backbones.split import SplitNetwork
from da3.toolchain.backbones.weights import WeightsFile
from da3.toolchain.methods.side_by_side import Out, SideBySide
from da3.toolchain.network.exits import with_exits
from da3.toolchain.network.model import Output
from da3.toolchain.network.slicing import images_a_slice, parts_at_once
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
    side_by_side: SideBySide | None = None  # what computes slices at once, on a CPU, where their gradients are small
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

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    # -- one batch

    def step(self, pixels: Tensor, labels: Tensor, smoothing: float, whole: int | None = None) -> StepResult:
        """Forward and backward of a batch, in slices where the method allows; adds to every parameter's ``grad``.

        pixels uint8 (B, S, S, 3), labels int64 (B,). Any slicing gives the same gradients up to rounding. ``whole``:
        these are a part of a batch of so many photos, and what they give is their part of its mean loss.
        """
        count = len(labels) if whole is None else whole
        trained = self.parameters()

        def of_some(rows: slice) -> tuple[Sequence[Tensor | None], StepResult]:
            output = self.forward(self.normalise(pixels[rows]))
            loss = self.loss(output, labels[rows], smoothing, count)
            correct = int((output.logits.argmax(1) == labels[rows]).sum())
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            return gradients, StepResult(float(loss.detach()), correct, output.share)

        result = StepResult(0.0, 0, self.answer_costs()[-1])
        for gradients, some in self._each(of_some, len(labels)):
            for parameter, grad in zip(trained, gradients, strict=True):
                if grad is not None:
                    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
            result = StepResult(result.loss + some.loss, result.correct + some.correct, some.share)
        return result

    @property
    def micro_batch(self) -> int:
        """Images a slice: as asked for, or what suits the device."""
        return self.task.memory.micro_batch or self.slice_size

    @cached_property
    def slice_size(self) -> int:
        """Images a slice unless told otherwise."""
        largest = 4 * self.network.largest_activation(self.task.size)
        return images_a_slice(largest, self.image_flops, self.device.type)

    @cached_property
    def image_flops(self) -> int:
        """Of the blocks' forward pass for one image."""
        return sum(f.total for f in self.network.block_flops(self.task.size))

    @cached_property
    def network(self) -> SplitNetwork:
        """What the network's shapes are read from."""
        with torch.device("meta"):
            return build_network(self.task.arch, self.width, self.padding).split()

    def _slices(self, count: int) -> Iterator[slice]:
        return slices(count, self.micro_batch if self.sliceable else count)

    def _each(self, work: Callable[[slice], Out], count: int) -> Iterator[Out]:
        """``work`` of the rows of each slice of ``count`` rows, in order; or of each part of a slice, where these are
        computed side by side."""
        at_once = self.at_once
        if self.side_by_side is None or at_once == 1:
            return map(work, self._slices(count))
        # Of one size wherever there are photos enough: libraries keep some MB of what they make for each.
        whole = self.micro_batch // at_once
        part = whole if count > whole else -(-count // at_once)
        return self.side_by_side.each(work, slices(count, part), at_once)

    def each_batch(self, work: Callable[[Tensor], Out], batches: Iterable[Tensor]) -> Iterator[Out]:
        """``work`` of each of ``batches`` of up to a slice of images, in order; or of each part of one."""
        at_once = self.at_once
        if self.side_by_side is None or at_once == 1:
            return map(work, batches)
        parts = (part for images in batches for part in torch.split(images, self.micro_batch // at_once))
        return self.side_by_side.each(work, parts, at_once)

    @property
    def at_once(self) -> int:
        """How many parts of a slice are computed side by side."""
        if self.side_by_side is None or self.device.type != "cpu":
            return 1
        return parts_at_once(self.micro_batch, self.image_flops, self.side_by_side.cores)

    def loss(self, output: Output, labels: Tensor, smoothing: float, count: int) -> Tensor:
        """What these samples contribute (a scalar) to the mean loss of a batch of ``count``."""
        return F.cross_entropy(output.logits, labels, label_smoothing=smoothing, reduction="sum") / count

    def predict(self, pixels: Tensor) -> Output:
        """Answers for uint8 (B, S, S, 3) without gradients, a few images at a time to save memory."""

        @torch.no_grad()  # in whichever thread
        def answers(rows: slice) -> Output:
            return self.forward(self.normalise(pixels[rows]))

        return Output.joined(list(self._each(answers, len(pixels))))
