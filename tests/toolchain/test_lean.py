"""Slices of a batch, precisions and the memory budget: what saves memory may not change what is learnt."""

import subprocess
import sys
from functools import cache

import pytest
import torch

from da3.runtime.training.config import AdaptorSpec, MemorySettings, RunConfig, slice_size
from da3.toolchain.backbones import random_weights
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import Task, method
from da3.toolchain.network.slicing import images_a_slice
from da3.toolchain.process.allocator import no_holes_environment
from da3.toolchain.training import budget
from da3.toolchain.training.budget import choices, fit
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

WIDTH = {"mobilenet_v2": 0.35}


@cache
def weights_of(arch):
    return random_weights(arch, WIDTH.get(arch, 1.0))


def step(name, arch, lean, keep=1.0, batch=6, spec=None):
    """Loss and gradients, by name, of one training step."""
    torch.manual_seed(0)
    adaptor = spec or AdaptorSpec.of(arch)
    task = Task(arch=arch, size=64, classes=5, flops_budget=keep, adaptor=adaptor, memory=lean)
    learner = method(name)(task, weights_of(arch))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    pixels = torch.randint(0, 256, (batch, 64, 64, 3), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, 5, (batch,), generator=draw)
    learner.train_mode(0.5)
    torch.manual_seed(2)
    result = learner.step(pixels, labels, 0.1)
    return result, {n: p.grad for n, p in learner.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "arch", "keep"),
    [
        ("da3", "mobilenet_v2", 1.0),
        ("da3", "mobilenet_v2", 0.7),
        ("da3", "resnet18", 0.7),
        ("linear", "mobilenet_v2", 1.0),
        ("bias", "mobilenet_v2", 1.0),
        ("piggyback", "mobilenet_v2", 1.0),
    ],
)
def test_any_slicing_gives_the_same_step(name, arch, keep):
    whole, expected = step(name, arch, MemorySettings(micro_batch=6, keep_precision="fp32"), keep)
    # Piggyback's weight gradients are stock autograd's, summed in another order.
    tolerance = 1e-4 if name == "piggyback" else 1e-5
    for size in (1, 4):
        sliced, found = step(name, arch, MemorySettings(micro_batch=size, keep_precision="fp32"), keep)
        assert sliced.loss == pytest.approx(whole.loss, rel=1e-5)
        assert (sliced.correct, sliced.share) == (whole.correct, pytest.approx(whole.share, rel=1e-6))
        assert found.keys() == expected.keys()
        for key in found:
            # What is smaller is left of larger parts of either sign, a gate's of F(x) and what stands in for it.
            largest = max(float(expected[key].abs().max()), 0.1 if "gate" in key else 0.01)
            assert (found[key] - expected[key]).abs().max() <= tolerance * largest, key


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_coarser_kept_inputs_change_gradients_a_little(precision):
    _, exact = step("da3", "resnet18", MemorySettings(keep_precision="fp32"))
    _, found = step("da3", "resnet18", MemorySettings(keep_precision=precision))
    a, b = (torch.cat([g[k].flatten() for k in exact]) for g in (exact, found))
    assert 0 < (a - b).norm() < 0.02 * a.norm()


def test_a_bfloat16_backbone_trains_float32_adaptors():
    result, grads = step("da3", "resnet18", MemorySettings(backbone_precision="bf16"))
    _, exact = step("da3", "resnet18", MemorySettings())
    assert all(g.dtype is torch.float32 for g in grads.values())
    a, b = (torch.cat([g[k].flatten() for k in exact]) for g in (exact, grads))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.98
    assert torch.isfinite(torch.tensor(result.loss))


def test_nothing_before_the_first_adaptor_is_differentiated():
    _, grads = step("da3", "resnet18", MemorySettings(), spec=AdaptorSpec(first=5))
    blocks = {int(name.split(".")[1]) for name in grads if name.startswith("adaptors.")}
    assert blocks == {5, 6, 7}


@pytest.mark.parametrize(("given", "size"), [(None, None), ("auto", 0), ("3", 3)])
def test_slice_size(given, size):
    assert slice_size(given) == size


@pytest.mark.parametrize("given", ["0", "-1", "two", ""])
def test_bad_slice_size(given):
    with pytest.raises(TrainingError, match="--micro-batch .*use auto, or a number"):
        slice_size(given)


def test_a_slice_has_an_image_at_least():
    assert images_a_slice(10**12, 10**12, "cpu") == 1
    assert images_a_slice(2**20, 10**12, "cuda") > images_a_slice(2**20, 10**12, "cpu") > 1
    small, roomy = images_a_slice(2**22, 10**8, "cpu"), images_a_slice(2**22, 10**12, "cpu")
    assert small > roomy == 1, "a small network in single images is mostly overhead"
    assert images_a_slice(2**22, 1, "cpu") < 10, "but memory is bounded"


# -- the budget


def config(name="da3"):
    lean = MemorySettings(keep_precision="bf16")
    return RunConfig(
        "d", "data", name, "resnet50", "", ("a", "b"), 64, 1, 8, 1e-3, 1.0, 0, True, 0.1, AdaptorSpec(), lean
    )


def test_choices_are_cumulative_and_respect_what_the_user_fixed():
    found = dict(choices(config(), frozenset()))
    assert list(found) == [
        "as it is",
        "one photo a slice",
        "one photo a slice, pooled inputs kept in int8",
        "one photo a slice, pooled inputs kept in int8, a backbone in bf16",
        "one photo a slice, pooled inputs kept in int8, a backbone in bf16, adaptors on a grid of 4 x 4",
    ]
    finer = [name for name, _ in choices(config()._replace(adaptor=AdaptorSpec(grid=16)), frozenset())]
    assert [name.split(", ")[3:] for name in finer[4:]] == [[f"adaptors on a grid of {n} x {n}"] for n in (8, 4)]
    last = list(found.values())[-1]
    assert last.memory == MemorySettings("int8", "bf16", "exact", 1) and last.adaptor.grid == 4
    fixed = list(choices(config(), frozenset({"micro_batch", "backbone_precision"})))
    assert all(c.memory.micro_batch == 0 and c.memory.backbone_precision == "fp32" for _, c in fixed)
    assert [name for name, _ in choices(config("finetune"), frozenset())] == ["as it is"]


def test_the_first_choice_that_fits_is_taken_and_explained(monkeypatch):
    peaks = iter([300e6, 190e6, 150e6])
    monkeypatch.setattr(budget, "_measure", lambda *facts: (int(next(peaks)), 100_000_000))
    reporter, notes = SilentReporter(), []
    reporter.note = notes.append
    chosen = fit(config(), "w", "cpu", 200_000_000, frozenset(), reporter)
    assert chosen == config()._replace(memory=MemorySettings("bf16", "fp32", "exact", 1))
    assert "one photo a slice: 190 MB, which fits" in notes[2] and "about 290 MB" in notes[3]


def test_a_budget_too_small_names_the_smallest_that_works(monkeypatch):
    peaks = iter([300e6, 190e6, 150e6, 140e6, 145e6])
    monkeypatch.setattr(budget, "_measure", lambda *facts: (int(next(peaks)), 0))
    with pytest.raises(TrainingError, match="100 MB is too small .* smallest that works is about 143 MB"):
        fit(config(), "w", "cpu", 100_000_000, frozenset(), SilentReporter())


def test_a_budget_is_measured_for_real(small_run):
    notes = []
    reporter = SilentReporter()
    reporter.note = notes.append
    result = train(small_run(memory_budget="1GB"), reporter)
    assert result.finished and "as it is:" in notes[1] and "which fits" in notes[1]
    with pytest.raises(TrainingError, match="1 MB is too small"):
        train(small_run("other", memory_budget="1MB", method="finetune"), SilentReporter())
    assert not (result.folder.parent / "other").exists()


# -- the process


def test_lean_environment_adds_to_what_is_there_and_only_once():
    once = no_holes_environment({"A": "b", "GLIBC_TUNABLES": "glibc.malloc.check=1"})
    expected = "glibc.malloc.check=1:glibc.malloc.tcache_count=0" if sys.platform.startswith("linux") else ""
    assert once["A"] == "b" and once["GLIBC_TUNABLES"].startswith(expected)
    assert no_holes_environment(once) == once


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_training_starts_over_in_a_lean_environment():
    code = (
        "import os, sys\n"
        "from da3.toolchain.process.allocator import restart_without_holes\n"
        "restart_without_holes()\n"
        "print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, "one", "two"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["glibc.malloc.tcache_count=0", "one", "two"]
