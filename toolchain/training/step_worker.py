"""What a training step of one method takes: its memory and its time, measured in a process that does nothing else."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from da3.runtime.training import AdaptorSpec, MemorySettings
from da3.runtime.training.recipe import WEIGHT_DECAY
from da3.toolchain.autograd import Block, FrozenConv, run_block
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import Da3, Learner, Task, adaptor_spec, method
from da3.toolchain.network import DomainModel, open_blocks
from da3.toolchain.process.allocator import keep_freed_memory, return_freed_memory
from da3.toolchain.process.memory import growth, live_bytes, peak_bytes, reset_peak
from da3.toolchain.training.adamw import AdamW

CLASSES = 10
SMOOTHING = 0.1
PREPARED = 8  # images that the method looks at before its first step
PROGRESS = 0.9  # of a training run: whatever is to be closed is closed by then


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure. ``weights`` is what ``load_weights`` takes; ``batch`` images a step of ``size`` pixels.

    ``adaptor`` None is what suits the backbone, as its weights are; ``threads`` None leaves their number to PyTorch.
    """

    method: str
    flops_budget: float
    memory: MemorySettings
    backbone: str
    weights: str
    size: int
    batch: int
    steps: int
    device: str
    threads: int | None
    seed: int
    classes: int = CLASSES
    adaptor: AdaptorSpec | None = None

    def task(self, weights: WeightsFile) -> Task:
        """What the process learns, from these weights."""
        return Task(
            arch=self.backbone,
            size=self.size,
            classes=self.classes,
            flops_budget=self.flops_budget,
            adaptor=adaptor_spec(self.backbone, weights, self.size) if self.adaptor is None else self.adaptor,
            memory=self.memory,
        )

    def to_json(self) -> dict[str, object]:
        adaptor = None if self.adaptor is None else self.adaptor.to_json()
        return {**vars(self), "memory": self.memory.to_json(), "adaptor": adaptor}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        adaptor = None if data["adaptor"] is None else AdaptorSpec.from_json(data["adaptor"])
        return cls(**{**data, "memory": MemorySettings(**data["memory"]), "adaptor": adaptor})


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one process found. ``seconds`` of each timed step; None where it cannot be known."""

    kept_bytes_per_image: float | None
    base_bytes: int
    peak_growth_bytes: int
    seconds: list[float]
    trainable_parameters: int
    domain_bytes: int
    flops_share: float
    threads: int
    device_name: str | None


def learner_for(request: Request, weights: WeightsFile) -> Learner:
    """The method's learner, with as many blocks closed as a run closes."""
    learner = method(request.method)(request.task(weights), weights)
    if isinstance(learner, Da3):
        close_to(learner.model, learner.share_left, request.seed)
    return learner


def close_to(model: DomainModel, share: float, seed: int) -> None:
    """Close blocks in a random order until at most ``share`` of the block FLOPs is left, or none can be closed."""
    still = open_blocks(model)
    for i in torch.randperm(len(still), generator=torch.Generator().manual_seed(seed)).tolist():
        if model.answer_costs[-1] <= share:
            break
        model.close(still[i])


def measure(request: Request, said: Callable[[int], None] = lambda step: None) -> Measured:
    """Build the method's network as ``da3 train`` does, take a warm-up step, and ``request.steps`` timed ones.

    The peak counts from just before the network is built to the end of the last step. ``said`` hears of each step.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    return_freed_memory()
    device = torch.device(request.device)
    torch.manual_seed(request.seed)
    _tiny_step(device)
    reset_peak(device)
    base = torch.cuda.memory_allocated(device) if device.type == "cuda" else peak_bytes(device)

    weights = load_weights(request.weights, request.backbone)  # held to the end, as in train()
    learner = learner_for(request, weights)
    learner.model.to(device)
    shape = (request.batch, request.size, request.size, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)
    labels = torch.randint(0, request.classes, (request.batch,)).to(device)
    keep_freed_memory()
    learner.prepare(lambda: (learner.normalise(few) for few in torch.split(pixels[:PREPARED], learner.micro_batch)))
    optimizer = AdamW(learner.parameters(), lr=learner.default_lr, weight_decay=WEIGHT_DECAY)
    seconds, shares = [], []
    for step in range(1 + request.steps):
        _wait(device)
        start = time.perf_counter()
        learner.train_mode(PROGRESS)
        optimizer.zero_grad(set_to_none=True)
        result = learner.step(pixels, labels, SMOOTHING)
        optimizer.step()
        _wait(device)
        seconds.append(time.perf_counter() - start)
        if not math.isfinite(result.loss):
            raise TrainingError(f"the loss became {result.loss}: these weights or memory settings do not train")
        shares.append(result.share)
        said(step)
    peak = peak_bytes(device) - base
    optimizer.zero_grad(set_to_none=True)
    return Measured(
        kept_bytes_per_image=kept_bytes_per_image(learner, pixels, labels),
        base_bytes=base,
        peak_growth_bytes=peak,
        seconds=seconds[1:],
        trainable_parameters=sum(p.numel() for p in learner.parameters()),
        domain_bytes=learner.domain_bytes(),
        flops_share=shares[-1],
        threads=torch.get_num_threads(),
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def kept_bytes_per_image(learner: Learner, pixels: Tensor, labels: Tensor) -> float | None:
    """Bytes that are allocated after the forward pass and the loss and were not before, per image.

    Of the whole slice that the method trains at once (the batch, or a micro-batch). None where the allocator does
    not tell.
    """
    count = min(learner.micro_batch, len(labels)) if learner.sliceable else len(labels)
    pixels, labels = pixels[:count], labels[:count]
    learner.train_mode(PROGRESS)
    for _ in range(2):  # libraries make what they keep for each size, and for each number of threads, the first time
        output = loss = None
        gc.collect()
        before = live_bytes(pixels.device)
        output = learner.forward(learner.normalise(pixels))
        loss = learner.loss(output, labels, SMOOTHING, count)
        _wait(pixels.device)
        gc.collect()
        kept = growth(before, live_bytes(pixels.device))
    del output, loss
    return None if kept is None else kept / count


def _tiny_step(device: torch.device) -> None:
    """Train two small networks once, so that the libraries' own pages do not count as a method's."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    ).to(device)
    optimizer = AdamW(net.parameters())
    loss = nn.functional.cross_entropy(net(torch.rand(2, 3, 16, 16, device=device)), torch.tensor([0, 1]).to(device))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    convs = [
        FrozenConv(
            weight=torch.rand(16, 16, k, k),
            bias=torch.rand(16),
            stride=1,
            pads=(k // 2,) * 4,
            activation="relu" if k == 3 else None,
        )
        for k in (1, 3, 1)
    ]
    block = Block("tiny", branch=convs, shortcut="identity", activation="relu").to(device)
    y = run_block(block, torch.rand(4, 16, 16, 16, device=device).requires_grad_(True))
    y.sum().backward()  # type: ignore[no-untyped-call]
    _wait(device)
    del net, optimizer, loss, block, convs, y
    gc.collect()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
