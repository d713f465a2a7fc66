"""bfloat16 weights: each a neighbour of the exact one, and next to no error in what a filter adds up to."""

import pytest
import torch
import torch.nn.functional as F

from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.backbones.rounding import balanced


def neighbours(exact):
    """The bfloat16 numbers below and above, equal where the number is one."""
    nearest = exact.bfloat16()
    bits = nearest.view(torch.int16)
    around = torch.stack([(bits + d).view(torch.bfloat16).double() for d in (-1, 0, 1)])
    around = torch.where(nearest == 0, 0.0, around)
    below = torch.where(around <= exact, around, -torch.inf).amax(0)
    above = torch.where(around >= exact, around, torch.inf).amin(0)
    return below, above


@pytest.mark.parametrize("shape", [(96, 1, 3, 3), (64, 1, 5, 5), (320, 960, 1, 1), (3, 70_000, 1, 1), (64, 3, 7, 7)])
def test_each_weight_is_a_neighbour_and_each_filter_adds_up(shape):
    exact = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.1
    exact[0] = 0
    exact[1] = exact[1].bfloat16()  # nothing to round
    found = balanced(exact)
    assert found.dtype is torch.bfloat16 and found.shape == exact.shape
    below, above = neighbours(exact)
    assert ((found.double() == below) | (found.double() == above)).all()
    assert torch.equal(found[:2].float(), exact[:2])
    off = (found.double() - exact.double()).flatten(1).sum(1).abs()
    nearest = (exact.bfloat16().double() - exact.double()).flatten(1).sum(1).abs()
    assert (off <= nearest).all()
    assert off.mean() < nearest.mean() / (2 if shape[1] == 1 else 10)
    assert (found.float() - exact).norm() < 1.25 * (exact.bfloat16().float() - exact).norm()


def test_an_even_input_gets_the_answer_that_it_had():
    exact = torch.randn(96, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    exact -= exact.mean((2, 3), keepdim=True)  # filters that answer to differences alone
    even = torch.full((1, 96, 8, 8), 6.0)
    answers = [F.conv2d(even, w.float(), groups=96).abs().mean() for w in (exact.bfloat16(), balanced(exact))]
    assert answers[1] < answers[0] / 3


def test_a_backbone_in_bfloat16_keeps_its_biases():
    weights = random_weights("mobilenet_v2", width=0.35)
    exact, short = load_backbone("mobilenet_v2", weights), load_backbone("mobilenet_v2", weights, "bf16")
    assert short.dtype is torch.bfloat16
    for (name, a), b in zip(exact.named_buffers(), short.buffers(), strict=True):
        if name.endswith("bias"):
            assert torch.equal(a, b)
        else:
            assert b.dtype is torch.bfloat16 and b.is_contiguous(memory_format=torch.channels_last)
            assert ((a - b.float()).abs() <= a.abs() * 2**-7).all()
