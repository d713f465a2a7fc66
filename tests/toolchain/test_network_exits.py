"""Exits: where they are, what they answer, their gradients, and what they keep between forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from da3.runtime.training.config import KEEP_PRECISIONS, AdaptorSpec, MemorySettings
from da3.runtime.training.recipe import CARRY, EXIT_WEIGHT, EXIT_WIDTH, MATCH
from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.backbones.registry import build_network
from da3.toolchain.network.adaptor import Adaptor
from da3.toolchain.network.exits import Exit, exit_places, with_exits
from da3.toolchain.network.loss import answers_loss
from da3.toolchain.network.model import DomainModel

SIDE = 3


@pytest.mark.parametrize("size", [32, 96, 160, 224])
@pytest.mark.parametrize(
    ("arch", "width", "places"),
    [
        ("mobilenet_v2", 1.0, (5, 9, 12, 15)),
        ("mobilenet_v2", 0.35, (5, 9, 12, 15)),
        ("mobilenet_v2", 1.4, (5, 9, 12, 15)),
        ("mobilenet_v2", 0.25, (2, 5, 9, 12, 15)),  # its first blocks are the larger part of it
        ("resnet18", 1.0, (3, 5)),
        ("resnet34", 1.0, (6, 9, 12)),
        ("resnet50", 1.0, (6, 9, 12)),
    ],
)
def test_places(arch, width, places, size):
    with torch.device("meta"):
        network = build_network(arch, width).split()
    spec = with_exits(AdaptorSpec.of(arch), network, size)
    assert (spec.exits, spec.exit_width) == (places, 64 if "resnet" in arch else EXIT_WIDTH)
    assert all(i + 1 >= spec.first for i in places)
    assert with_exits(AdaptorSpec(first=places[-1] + 1), network, size).exits == places[-1:]
    none = with_exits(AdaptorSpec(first=places[-1] + 2), network, size)
    assert (none.exits, none.exit_width) == ((), 0)


def test_a_wide_gap_is_halved():
    with torch.device("meta"):
        blocks = list(build_network("resnet34").split().blocks)  # stages end after blocks 2, 6 and 12
    flops = [10] * 16
    assert exit_places(blocks, flops) == (6, 9, 12)
    flops[13:] = [80, 50, 50]  # 0.23 of all is done after block 6, 0.42 after 12, 0.68 after 13
    assert exit_places(blocks, flops) == (12, 13)


def make(channels=6, width=5, classes=4):
    torch.manual_seed(0)
    adaptor = Adaptor(cin=channels, cout=channels, mid=channels, side=SIDE).double()
    adaptor.set_statistics(torch.randn(channels), torch.rand(channels) + 0.5, 1.7)
    exit = Exit(adaptor, width=width, classes=classes).double()
    with torch.no_grad():
        for parameter in (*adaptor.parameters(), *exit.parameters()):
            parameter.normal_()
        exit.down_bias.sub_(1)  # some channels are silent in every cell: all are the maximum then
    exit.head.set_statistics(torch.randn(2 * width), torch.rand(2 * width) + 0.5)
    return adaptor, exit


def neighbourhood(z):
    """Each cell's mean over the cells that it touches, and itself: one by one."""
    side = round(z.shape[1] ** 0.5)
    at = [(i // side, i % side) for i in range(side * side)]
    near = [[j for j, (y, x) in enumerate(at) if max(abs(y - v), abs(x - h)) <= 1] for v, h in at]
    return torch.stack([z[:, cells].mean(1) for cells in near], 1)


def stock(exit, p, before):
    """The docstring's formula, with each factor apart."""
    z = (p - exit.adaptor.mean) / exit.adaptor.std
    u = torch.relu(torch.einsum("ec,bpc->bpe", exit.down, torch.cat([z, neighbourhood(z)], 2)) + exit.down_bias)
    f = torch.cat([u.mean(1), u.max(1).values], 1)
    own = torch.einsum("kf,bf->bk", exit.head.weight, (f - exit.head.mean) / exit.head.std) + exit.head.bias
    return own if before is None else own + CARRY * before


@pytest.mark.parametrize("precision", KEEP_PRECISIONS)
@pytest.mark.parametrize("first", [True, False])
def test_gradients_equal_stock_autograd(first, precision):
    adaptor, exit = make()
    x = torch.randn(3, 6, 2 * SIDE, 2 * SIDE, dtype=torch.float64)
    before = None if first else torch.randn(3, 4, dtype=torch.float64)
    weight = torch.randn(3, 4, dtype=torch.float64)
    results = []
    for ours in (True, False):
        leaves = [x.clone().requires_grad_(True)]
        if before is not None:
            leaves.append(before.clone().requires_grad_(True))
        carried = leaves[1] if before is not None else None
        if ours:
            _, adapted = adaptor(leaves[0], precision)
            out, a = exit(adapted, carried), adapted.a
        else:
            p = F.avg_pool2d(leaves[0], 2).flatten(2).transpose(1, 2)
            out, a = stock(exit, p, carried), adaptor.compute(p)
        found = torch.autograd.grad((out * weight).sum() + a.square().sum(), [*leaves, *exit.parameters()])
        results.append((out.detach(), *found))
    tolerance = {"fp32": 1e-10, "bf16": 3e-2, "int8": 3e-2}[precision]
    for i, (mine, theirs) in enumerate(zip(*results, strict=True)):
        largest = max(1.0, float(theirs.abs().max()))
        assert (mine - theirs).abs().max() <= (tolerance if i else 1e-10) * largest, i
    with torch.no_grad():
        assert torch.allclose(exit(adaptor(x)[1], before), results[1][0])


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18"])
def test_gradients_of_a_whole_network(arch):
    """Through exits, carried answers, closed blocks and the loss, against stock autograd, in float64."""
    torch.manual_seed(0)
    backbone = load_backbone(arch, random_weights(arch, 0.35 if arch == "mobilenet_v2" else 1.0))
    spec = with_exits(AdaptorSpec.of(arch)._replace(grid=4), backbone, 64)
    exact = MemorySettings(keep_precision="fp32")
    model = DomainModel(backbone, spec, size=64, classes=4, may_close=True, memory=exact).double()
    image, labels = torch.randn(3, 3, 64, 64, dtype=torch.float64), torch.tensor([0, 2, 3])
    model.fit_normalisation(lambda: [image])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    shut = [i for i, closable in enumerate(model.closable) if closable][1::2]
    for i in shut:
        model.close(i)

    def formula():
        x, answers, before = model.run_to_first_adaptor(image), [], None
        for i, block in list(enumerate(model.backbone.blocks))[spec.first :]:
            adaptor = model.adaptor(i)
            p = F.avg_pool2d(x, x.shape[-1] // adaptor.side).flatten(2).transpose(1, 2)
            if i - 1 in spec.exits:
                before = stock(model.exit_behind(i - 1), p, before)
                answers.append(before)
            a, bypass = adaptor.compute(p), model.bypass(i)
            if i in shut and bypass is not None:
                a = a + bypass.compute(p)
            y = 0.0
            if i not in shut:
                y = x
                for conv in block.convs:
                    y = stock_conv(conv, y)
            if block.has_shortcut:
                y = y + (x if block.projection is None else stock_conv(block.projection, x))
            y = y + F.interpolate(a, scale_factor=y.shape[-1] // adaptor.side)
            x = F.relu(y) if block.activation == "relu" else y
        features = (stock_conv(model.backbone.tail.conv, x) if model.backbone.tail.conv else x).mean((2, 3))
        logits = model.head(features) + CARRY * before
        last = logits.detach().softmax(1)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum")
        for answer in answers:
            divergence = (last * (last.log() - answer.log_softmax(1))).sum()
            cross_entropy = F.cross_entropy(answer, labels, label_smoothing=0.1, reduction="sum")
            loss = loss + EXIT_WEIGHT * ((1 - MATCH) * cross_entropy + MATCH * divergence)
        return loss

    output = model(image)
    assert len(output.exits) == len(spec.exits) > 0
    loss, expected = answers_loss(output.logits, output.exits, labels, 0.1), formula()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    trained = [p for p in model.parameters() if p.requires_grad]
    pairs = zip(*(torch.autograd.grad(x, trained, allow_unused=True) for x in (loss, expected)), strict=True)
    for mine, theirs in pairs:
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert (mine - theirs).abs().max() <= 1e-8 * max(1.0, float(theirs.abs().max()))


def stock_conv(conv, x):
    top, left, bottom, right = conv.pads
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), conv.weight, conv.bias, conv.stride, 0, 1, conv.groups)
    return {None: lambda t: t, "relu": F.relu, "relu6": F.relu6}[conv.activation](y)


def test_an_exit_shares_what_its_adaptor_keeps():
    """Beside that it holds which cell had each maximum, and its classifier its features: 3 E numbers an image."""
    adaptor, exit = make()
    x = torch.randn(3, 6, 2 * SIDE, 2 * SIDE, dtype=torch.float64).requires_grad_(True)
    _, adapted = adaptor(x, "int8")
    features = exit.features(adapted)
    kept = features.grad_fn
    assert kept.saved is adapted.saved is adapted.a.grad_fn.saved and kept.saved_tensors == ()
    assert [v.shape for v in vars(kept).values() if isinstance(v, torch.Tensor)] == [(3, exit.width)]


def test_the_last_answer_does_not_learn_from_the_exits_match():
    logits = torch.randn(3, 4, requires_grad=True)
    labels = torch.tensor([0, 1, 2])
    answers_loss(logits, [torch.randn(3, 4)], labels, 0.1).backward()
    alone = torch.autograd.grad(answers_loss(logits, [], labels, 0.1), logits)[0]
    assert torch.allclose(logits.grad, alone)
