"""The bypass of a closed block: fitted to what the block does, and trained."""

import pytest
import torch
import torch.nn.functional as F

from da3.runtime.training.config import KEEP_PRECISIONS, AdaptorSpec
from da3.toolchain.autograd.frozen import cell_means, run_block
from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.network.adaptor import Adaptor
from da3.toolchain.network.bypass import STEP, Fit, LowRankBypass
from da3.toolchain.network.block_selection import closing_costs, fit_bypasses, open_blocks
from da3.toolchain.network.exits import with_exits
from da3.toolchain.network.loss import answers_loss
from da3.toolchain.network.model import DomainModel

SIDE, CELL = 4, 2


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("mobilenet_v2", random_weights("mobilenet_v2", 0.35))


def make(channels):
    """A bypass for a block of so many channels, nothing in it zero."""
    torch.manual_seed(0)
    adaptor = Adaptor(cin=channels, cout=channels, mid=channels, side=SIDE).double()
    adaptor.set_statistics(torch.randn(channels), torch.rand(channels) + 0.5, 1.7)
    bypass = LowRankBypass(adaptor).double()
    with torch.no_grad():
        for parameter in bypass.parameters():
            parameter.normal_()
    return bypass


def neighbours(z):
    """Mean over 3 x 3 cells, those outside left out, cell by cell: (B, C, G, G)."""
    out = torch.empty_like(z)
    for i in range(SIDE):
        for j in range(SIDE):
            out[:, :, i, j] = z[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean((2, 3))
    return out


def expected(bypass, p):
    """c (B, C, G, G) from the formula in the docstring, with each factor apart."""
    adaptor = bypass.adaptor
    image = p.unflatten(1, (SIDE, SIDE)).permute(0, 3, 1, 2)
    z = (image - adaptor.mean[:, None, None]) / adaptor.std[:, None, None]
    both = torch.cat([z, neighbours(z)], 1)
    v = STEP * torch.einsum("oi,bihw->bohw", bypass.down, both)
    c = torch.einsum("oi,bihw->bohw", bypass.up, v) + bypass.up_bias[:, None, None]
    return STEP * adaptor.out_scale * c


@pytest.mark.parametrize("precision", KEEP_PRECISIONS)
def test_gradients_of_a_closed_block(precision):
    """What its adaptor and its bypass add, against stock autograd of the formulas."""
    block = load_backbone("mobilenet_v2", random_weights("mobilenet_v2", 0.35)).double().blocks[4]
    bypass = make(block.in_channels)
    adaptor = bypass.adaptor
    torch.manual_seed(1)
    with torch.no_grad():
        adaptor.up.normal_()
    x = torch.randn(3, block.in_channels, SIDE * CELL, SIDE * CELL, dtype=torch.float64)
    weight = torch.randn_like(x)

    def ours(x):
        same, adapted = adaptor(x, precision)
        return run_block(block, same, bypass(adapted), run=False)

    def stock(x):
        p = F.avg_pool2d(x, CELL).flatten(2).transpose(1, 2)
        return x + F.interpolate(adaptor.compute(p) + expected(bypass, p), scale_factor=CELL)

    results = []
    for function in (ours, stock):
        leaf = x.clone().requires_grad_(True)
        out = function(leaf)
        trained = [*bypass.parameters(), *adaptor.parameters()]
        results.append((out.detach(), *torch.autograd.grad((out * weight).sum(), [leaf, *trained])))
    loose = {"fp32": 1e-10, "bf16": 2e-2, "int8": 2e-2}[precision]
    for i, (mine, theirs) in enumerate(zip(*results, strict=True)):
        tolerance = loose if i else 1e-10  # the result needs nothing that was saved
        assert (mine - theirs).abs().max() <= tolerance * max(1.0, float(theirs.abs().max())), i
    with torch.no_grad():
        assert torch.allclose(ours(x), results[1][0])


def rows(bypass, p):
    return bypass.compute(p).detach().permute(0, 2, 3, 1).flatten(1, 2)


def fitted_to(function, photos):
    """A bypass of 16 channels, so of rank 4, fitted to ``function`` of pooled inputs."""
    bypass = make(16)
    fit = Fit(bypass)
    for p in photos.split(64):
        fit.add(p, function(p))
    fit.solve()
    return bypass


def test_the_fit_finds_a_map_of_its_own_kind():
    """Where F is one, and photos are many, the fit is F but for the ridge's shrinkage."""
    truth = make(16)
    photos = torch.randn(1280, SIDE * SIDE, 16, dtype=torch.float64)
    fitted = fitted_to(lambda p: rows(truth, p), photos)
    p = torch.randn(64, SIDE * SIDE, 16, dtype=torch.float64)
    assert (rows(fitted, p) - rows(truth, p)).square().mean() < 0.01 * rows(truth, p).var()


def test_the_fit_is_the_best_of_its_rank():
    """For a map of full rank: the error of no other rank-4 map, and the mean is right."""
    torch.manual_seed(3)
    matrix = torch.randn(16, 16, dtype=torch.float64) / 4
    photos = torch.randn(1280, SIDE * SIDE, 16, dtype=torch.float64)
    fitted = fitted_to(lambda p: p @ matrix + 1, photos)
    found = rows(fitted, photos)
    assert torch.allclose(found.mean((0, 1)), (photos @ matrix + 1).mean((0, 1)))
    left = (found - photos @ matrix - 1).square().mean() * 16
    # Photos are white: what a rank leaves is the sum of the other squares.
    assert float(left) == pytest.approx(float(torch.linalg.svdvals(matrix)[4:].square().sum()), rel=0.05)


def tiny(backbone, may_close=True, size=64):
    torch.manual_seed(0)
    spec = with_exits(AdaptorSpec(), backbone, size)
    model = DomainModel(backbone, spec, size=size, classes=5, may_close=may_close).eval()
    images = torch.randn(24, 3, size, size)
    model.fit_normalisation(lambda: [images])
    with torch.no_grad():
        for head in (model.head, *(exit.head for exit in model.exits.values())):
            head.weight.normal_(0, 0.05)
    return model, images


def test_fitted_bypasses_are_nearer_than_nothing(backbone):
    """On a real architecture: what a closed block leaves is nearer to what it does with its bypass."""
    model, images = tiny(backbone)
    fit_bypasses(model, images.split(8))
    with torch.no_grad():
        x = model.run_to_first_adaptor(images)
        tried = 0
        for i in range(len(model.backbone.blocks)):
            before = x
            x = model.run(i, x, run=True).y
            if str(i) in model.substitutes:
                side = model.adaptor(i).side
                branch = cell_means(x - before, side)
                c = model.substitutes[str(i)].compute(cell_means(before, side)).permute(0, 2, 3, 1).flatten(1, 2)
                assert (branch - c).square().mean() < 0.9 * branch.square().mean(), i
                tried += 1
    assert tried == sum(model.closable)


def test_costs_are_what_closing_costs(backbone):
    """Of the loss that is trained, exits included, also where blocks are closed already."""
    model, images = tiny(backbone)
    labels = torch.arange(24) % 5
    fit_bypasses(model, [images])

    def loss():
        with torch.no_grad():
            output = model(images)
            return float(answers_loss(output.logits, output.exits, labels, 0.0)) / len(labels)

    model.close(open_blocks(model)[1])
    before = loss()
    blocks = [open_blocks(model)[k] for k in (0, 2, -1)]
    costs = closing_costs(model, [(images[:10], labels[:10]), (images[10:], labels[10:])], blocks)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for i in blocks:
        model.close(i)
        assert costs[i] == pytest.approx(loss() - before, abs=1e-4)
        model.load_state_dict(state)
        assert i in open_blocks(model)
    assert len({round(c, 5) for c in costs.values()}) > 1


def test_only_closed_blocks_store_bypasses(backbone):
    model, images = tiny(backbone)
    assert not [k for k in model.domain_tensors() if k.startswith("substitutes.")]
    fit_bypasses(model, [images])
    again, _ = tiny(backbone)
    shut = open_blocks(model)[::2]
    for i in shut:
        model.close(i)
        again.close(i)
    tensors = model.domain_tensors()
    assert {int(k.split(".")[1]) for k in tensors if k.startswith("substitutes.")} == set(shut)
    again.load_domain_tensors(tensors)
    with torch.no_grad():
        a, b = model(images).answers, again(images).answers
    assert torch.allclose(a, b, rtol=0, atol=1e-3 * float(a.abs().max()))


def test_resnets_have_none():
    """There they would be larger than the rest of the domain."""
    backbone = load_backbone("resnet18", random_weights("resnet18"))
    model = DomainModel(backbone, AdaptorSpec.of("resnet18"), size=64, classes=5, may_close=True)
    assert sum(model.closable) and not model.substitutes
