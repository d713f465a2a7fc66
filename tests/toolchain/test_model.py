"""Adaptors and gates: start at the pretrained network, leave out what is gated off, survive a round trip."""

import pytest
import torch

from da3.runtime.training.config import AdaptorSpec
from da3.toolchain.autograd import frozen, kernels
from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.backbones import NAMES, load_backbone, random_weights
from da3.toolchain.network.adaptor import grid_side
from da3.toolchain.network.gating import Gating
from da3.toolchain.network.model import DomainModel


def make(arch="mobilenet_v2", gated=True, size=64, classes=5, shake=False):
    torch.manual_seed(0)
    backbone = load_backbone(arch, random_weights(arch, 0.35 if arch == "mobilenet_v2" else 1.0))
    model = DomainModel(backbone, AdaptorSpec(), size=size, classes=classes, gated=gated)
    if shake:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("gate_bias"):
                    parameter.normal_(0, 1)
                else:
                    parameter.normal_(0, 0.05)
    return model.eval()


def between_logits(gates):
    """A threshold in the widest gap among the middle half of the logits, so that rounding decides nothing."""
    values = torch.cat(gates).sort().values
    middle = values[len(values) // 4 : 3 * len(values) // 4]
    gap = int((middle[1:] - middle[:-1]).argmax())
    return float(middle[gap : gap + 2].mean())


@pytest.mark.parametrize("arch", NAMES)
@torch.no_grad()
def test_untrained_adaptors_change_nothing(arch):
    model, image = make(arch), torch.randn(3, 3, 64, 64)
    model.fit_normalisation([image])
    values = {}
    for gating in (Gating.off(), Gating.hard()):  # every gate starts open
        model.gating = gating
        output = model(image, values)
        expected = model.backbone(image)
        assert (values["features"] - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert output.gates.all() and torch.allclose(output.share, torch.ones(3))


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18", "resnet50"])
@torch.no_grad()
def test_hard_gates_leave_samples_out(arch, monkeypatch):
    """A batch with mixed gates equals its samples alone, and branches see only the samples that need them."""
    model, image = make(arch, shake=True), torch.randn(6, 3, 64, 64)
    model.gating = Gating.hard()
    gate_logits = {}
    model(image, gate_logits)
    model.theta = between_logits([v for k, v in gate_logits.items() if k[0] == "g"])
    seen = []
    first_convs = {id(block.convs[0]): i for i, block in enumerate(model.backbone.blocks)}

    def convolve(conv, x, *rest, **options):
        if id(conv) in first_convs:
            seen.append((first_convs[id(conv)], len(x)))
        return kernels.convolve(conv, x, *rest, **options)

    monkeypatch.setattr(frozen, "convolve", convolve)
    output = model(image)
    expected = [(i, n) for i, n in enumerate(output.gates.sum(0).int().tolist()) if n]
    assert seen == expected
    assert (output.gates == 0).sum() > 0, "the threshold must close some gates"
    alone = torch.cat([model(one[None]).logits for one in image])
    assert torch.allclose(output.logits, alone, rtol=1e-4, atol=1e-5 * float(alone.abs().max()))
    # The share is what the FLOPs of the blocks and of their bypasses say.
    flops = model.backbone.block_flops(64)
    total = sum(f.branch + f.shortcut for f in flops)
    run = sum(
        f.shortcut + (f.branch if ran else model.bypass_flops(i))
        for i, (f, ran) in enumerate(zip(flops, output.gates[0].tolist(), strict=True))
    )
    assert output.share[0].item() == pytest.approx(run / total, abs=1e-6)


def test_training_reaches_adaptors_gates_and_head_but_no_backbone():
    model = make(shake=True)
    assert not list(model.backbone.parameters())
    model.gating = Gating.sampled(1.0)
    torch.manual_seed(1)
    output = model(torch.randn(4, 3, 64, 64))
    (output.logits.square().sum() + output.share.mean()).backward()
    skipped = {str(i) for i, ran in enumerate(output.gates.all(0).tolist()) if not ran}
    assert len(skipped) > 3
    for name, p in model.named_parameters():
        idle = name.startswith("substitutes.") and name.split(".")[1] not in skipped
        assert idle or p.grad.abs().sum() > 0, name


def test_ungated_model_trains_no_gates():
    names = [n for n, p in make(gated=False).named_parameters() if p.requires_grad]
    assert names and not [n for n in names if n.endswith((".gate", ".gate_bias")) or n.startswith("substitutes.")]


@torch.no_grad()
def test_domain_tensors_round_trip():
    first, image = make(shake=True), torch.randn(2, 3, 64, 64)
    first.fit_normalisation([torch.randn(8, 3, 64, 64)])
    second = make()
    second.load_domain_tensors(first.domain_tensors())
    a, b = first(image).logits, second(image).logits
    assert torch.allclose(a, b, rtol=0, atol=1e-3 * float(a.abs().max()))


@torch.no_grad()
def test_normalisation_does_not_depend_on_slices():
    images = torch.randn(8, 3, 64, 64)
    whole, sliced = make(), make()
    whole.fit_normalisation([images])
    sliced.fit_normalisation(images.split(3))
    for a, b in zip(whole.adaptors.values(), sliced.adaptors.values(), strict=True):
        assert torch.allclose(a.mean, b.mean, atol=1e-5) and torch.allclose(a.std, b.std, rtol=1e-4)
    first = whole.adaptor(0)
    z = (cell_means(whole.backbone.stem(images), first.side) - first.mean) / first.std
    assert z.mean((0, 1)).abs().max() < 1e-4


@pytest.mark.parametrize(("height", "side"), [(80, 8), (20, 5), (7, 7), (5, 5), (9, 9), (11, 11), (1, 1), (22, 11)])
def test_grid_side(height, side):
    assert grid_side(height, 8) == side
    assert height % side == 0


def test_a_block_without_shortcut_cannot_be_gated():
    block = make().backbone.blocks[1]
    x = torch.zeros(1, block.in_channels, 8, 8)
    with pytest.raises(ValueError, match="no shortcut"):
        run_block(block, x, None, torch.zeros(1))
