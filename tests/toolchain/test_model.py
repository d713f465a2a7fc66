"""Adaptors and exits: start at the pretrained network, leave out what is closed, survive a round trip."""

import pytest
import torch

from da3.runtime.training.config import AdaptorSpec
from da3.toolchain.autograd import frozen, kernels
from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.backbones import NAMES, load_backbone, random_weights
from da3.toolchain.network.adaptor import grid_side
from da3.toolchain.network.block_selection import open_blocks
from da3.toolchain.network.exits import with_exits
from da3.toolchain.network.model import DomainModel


def make(arch="mobilenet_v2", may_close=True, size=64, classes=5, shake=False):
    torch.manual_seed(0)
    backbone = load_backbone(arch, random_weights(arch, 0.35 if arch == "mobilenet_v2" else 1.0))
    spec = with_exits(AdaptorSpec(), backbone, size)
    model = DomainModel(backbone, spec, size=size, classes=classes, may_close=may_close)
    if shake:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.05)
    return model.eval()


@pytest.mark.parametrize("arch", NAMES)
@torch.no_grad()
def test_untrained_adaptors_change_nothing(arch):
    model, image = make(arch), torch.randn(3, 3, 64, 64)
    model.fit_normalisation(lambda: [image])
    values = {}
    output = model(image, values)
    expected = model.backbone(image)
    assert (values["features"] - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert output.share == 1 and output.answers.shape == (3, 1 + len(model.spec.exits), 5)
    assert not output.answers.any(), "no classifier has learnt yet"


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18", "resnet50"])
@torch.no_grad()
def test_closed_blocks_are_left_out(arch, monkeypatch):
    model, image = make(arch, shake=True), torch.randn(3, 3, 64, 64)
    before = model(image)
    shut = open_blocks(model)[::2]
    for i in shut:
        model.close(i)
    assert model.closed_blocks == tuple(shut) and not set(open_blocks(model)) & set(shut)
    seen = []
    first_convs = {id(block.convs[0]): i for i, block in enumerate(model.backbone.blocks)}

    def convolve(conv, x, *rest, **options):
        if id(conv) in first_convs:
            seen.append((first_convs[id(conv)], len(x)))
        return kernels.convolve(conv, x, *rest, **options)

    monkeypatch.setattr(frozen, "convolve", convolve)
    output = model(image)
    assert seen == [(i, 3) for i in range(len(model.backbone.blocks)) if i not in shut]
    assert not torch.allclose(output.answers, before.answers)
    # The shares are what the FLOPs of the blocks and of their bypasses say.
    flops = model.backbone.block_flops(64)
    run = [f.shortcut + (model.bypass_flops(i) if i in shut else f.branch) for i, f in enumerate(flops)]
    total = sum(f.total for f in flops)
    expected = [sum(run[: i + 1]) / total for i in model.spec.exits] + [sum(run) / total]
    assert model.answer_costs == pytest.approx(expected) and output.share == model.answer_costs[-1] < 1


def test_training_reaches_all_that_is_added_but_no_backbone():
    model = make(shake=True)
    assert not list(model.backbone.parameters())
    shut = open_blocks(model)[1:4]
    for i in shut:
        model.close(i)
    output = model(torch.randn(4, 3, 64, 64))
    output.logits.square().sum().backward()
    for name, p in model.named_parameters():
        idle = name.startswith("substitutes.") and int(name.split(".")[1]) not in shut
        assert (p.grad is None) if idle else p.grad.abs().sum() > 0, name


def test_a_model_whose_blocks_stay_trains_no_bypasses():
    names = [n for n, p in make(may_close=False).named_parameters() if p.requires_grad]
    assert names and not [n for n in names if n.startswith("substitutes.")]


@torch.no_grad()
def test_domain_tensors_round_trip():
    first, image = make(shake=True), torch.randn(2, 3, 64, 64)
    first.fit_normalisation(lambda: [torch.randn(8, 3, 64, 64)])
    second = make()
    for i in open_blocks(first)[::3]:
        first.close(i)
        second.close(i)
    second.load_domain_tensors(first.domain_tensors())
    a, b = first(image).answers, second(image).answers
    assert torch.allclose(a, b, rtol=0, atol=1e-3 * float(a.abs().max()))


@torch.no_grad()
def test_normalisation_does_not_depend_on_slices():
    images = torch.randn(8, 3, 64, 64)
    whole, sliced = make(), make()
    whole.fit_normalisation(lambda: [images])
    sliced.fit_normalisation(lambda: images.split(3))
    for a, b in zip(whole.adaptors.values(), sliced.adaptors.values(), strict=True):
        assert torch.allclose(a.mean, b.mean, atol=1e-5) and torch.allclose(a.std, b.std, rtol=1e-4)
    for a, b in zip(whole.exits.values(), sliced.exits.values(), strict=True):
        assert torch.allclose(a.head.mean, b.head.mean, atol=1e-4) and torch.allclose(a.head.std, b.head.std, rtol=1e-3)
    first = whole.adaptor(0)
    z = (cell_means(whole.backbone.stem(images), first.side) - first.mean) / first.std
    assert z.mean((0, 1)).abs().max() < 1e-4


@pytest.mark.parametrize(("height", "side"), [(80, 8), (20, 5), (7, 7), (5, 5), (9, 9), (11, 11), (1, 1), (22, 11)])
def test_grid_side(height, side):
    assert grid_side(height, 8) == side
    assert height % side == 0


def test_a_block_without_shortcut_cannot_be_left_out():
    block = make().backbone.blocks[1]
    x = torch.zeros(1, block.in_channels, 8, 8)
    with pytest.raises(ValueError, match="no shortcut"):
        run_block(block, x, run=False)
