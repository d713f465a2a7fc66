"""The same on a CUDA device as on the CPU; skipped where there is none."""

import pytest
import torch

from da3.runtime.training.config import MemorySettings
from da3.toolchain.autograd.frozen import run_block
from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.bench.progress import SilentBenchReporter
from da3.toolchain.bench.train import TrainPlan, bench_train
from da3.toolchain.bench.variants import parse
from da3.toolchain.methods import METHODS, Task, adaptor_spec, method
from da3.toolchain.process import memory
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no CUDA device"),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("arch", "index"), [("mobilenet_v2", 1), ("mobilenet_v2", 2), ("resnet18", 2), ("resnet50", 4)]
)
def test_gradients_equal_the_cpus(arch, index, layout):
    block = load_backbone(arch, random_weights(arch)).blocks[index].double()
    torch.manual_seed(0)
    x = torch.randn(3, block.in_channels, 8, 8, dtype=torch.float64).to(memory_format=layout)
    added = torch.randn(3, block.out_channels, 2, 2, dtype=torch.float64)
    found = []
    for device in ("cpu", "cuda"):
        block.to(device)
        leaves = [t.detach().to(device).requires_grad_(True) for t in (x, added)]
        y = run_block(block, *leaves)
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    for a, b in zip(*found, strict=True):
        assert (a - b.cpu()).abs().max() <= 1e-9 * max(1.0, float(a.abs().max()))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_it(name, small_run):
    result = train(small_run(method=name, device="cuda", keep=0.5 if name == "da3" else None), SilentReporter())
    assert result.finished and result.best is not None


def test_a_bfloat16_backbone_trains_on_it(small_run):
    assert train(small_run(device="cuda", backbone_precision="bf16"), SilentReporter()).finished


def test_little_is_kept_there_too():
    weights = random_weights("resnet50")
    kept = {}
    for name in ("finetune", "da3"):
        task = Task(
            arch="resnet50",
            size=224,
            classes=5,
            flops_budget=1.0,
            adaptor=adaptor_spec("resnet50", weights, 224),
            memory=MemorySettings(micro_batch=4),
        )
        learner = method(name)(task, weights)
        learner.model.to("cuda")
        pixels = torch.randint(0, 256, (4, 224, 224, 3), dtype=torch.uint8, device="cuda")
        learner.train_mode(0.5)
        before = memory.live_bytes(pixels.device)
        output = learner.forward(learner.normalise(pixels))
        kept[name] = memory.growth(before, memory.live_bytes(pixels.device))
        del output
    assert kept["da3"] < kept["finetune"] / 20


def test_the_bench_runs_on_it():
    variants = parse(["finetune,da3"])
    plan = TrainPlan(variants=variants, backbone="resnet18", size=64, steps=1, rounds=1, device="cuda")
    report = bench_train(plan, SilentBenchReporter())
    assert [row["method"] for row in report["rows"]] == ["finetune", "da3"]
