"""Slices of a batch and precisions: what saves memory may not change what is learnt."""

from functools import cache

import pytest
import torch

from da3.runtime.training.config import AdaptorSpec, MemorySettings, slice_size
from da3.toolchain.backbones import load_weights, random_weights
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import Task, adaptor_spec, method
from da3.toolchain.network.slicing import images_a_slice, parts_at_once
from da3.toolchain.training.step_worker import close_to

WIDTH = {"mobilenet_v2": 0.35}
DEMO = "the demo's"  # a backbone that was trained: a random one makes much of little differences


@cache
def weights_of(arch):
    return load_weights("demo", "mobilenet_v2") if arch == DEMO else random_weights(arch, WIDTH.get(arch, 1.0))


def step(name, arch, settings, keep=1.0, batch=6, spec=None):
    """Loss and gradients, by name, of one training step."""
    torch.manual_seed(0)
    weights = weights_of(arch)
    learner = method(name)(
        Task(
            arch=weights.arch,
            size=64,
            classes=5,
            flops_budget=keep,
            adaptor=spec or adaptor_spec(weights.arch, weights, 64),
            memory=settings,
        ),
        weights,
    )
    if keep < 1:
        close_to(learner.model, learner.share_left, seed=0)
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
        ("da3", "mobilenet_v2", 0.54),
        ("da3", "resnet18", 0.54),
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
            largest = max(float(expected[key].abs().max()), 0.01)  # what is smaller is left of parts of either sign
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


@pytest.mark.parametrize("keep", [1.0, 0.54])
def test_bfloat16_gradients_are_those_of_float32_but_for_rounding(keep):
    _, grads = step("da3", DEMO, MemorySettings(backbone_precision="bf16"), keep, batch=8)
    _, exact = step("da3", DEMO, MemorySettings(), keep, batch=8)
    a, b = (torch.cat([g[k].flatten() for k in exact]) for g in (exact, grads))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.995


def test_fine_tuning_in_bfloat16_keeps_float32_weights_and_answers():
    result, grads = step("finetune", DEMO, MemorySettings(backbone_precision="bf16"), batch=8)
    plain, exact = step("finetune", DEMO, MemorySettings(), batch=8)
    assert all(g.dtype is torch.float32 for g in grads.values())
    assert result.loss != plain.loss, "nothing was computed in bfloat16"
    assert result.loss == pytest.approx(plain.loss, rel=0.05)
    a, b = (torch.cat([g[k].flatten() for k in exact]) for g in (exact, grads))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.9


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
    assert small > 2 * roomy, "a small network in few images is mostly overhead"
    assert images_a_slice(2**22, 1, "cpu") < 12, "but memory is bounded"


@pytest.mark.parametrize(
    ("images", "flops", "cores", "parts"),
    [(8, 6e8, 2, 2), (8, 6e8, 16, 2), (4, 6e8, 2, 1), (5, 8e9, 2, 2), (3, 8e9, 16, 3), (1, 8e9, 4, 1), (64, 1e6, 4, 1)],
)
def test_parts_are_worth_a_thread(images, flops, cores, parts):
    assert parts_at_once(images, flops, cores) == parts
