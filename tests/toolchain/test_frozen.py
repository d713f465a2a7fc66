"""The autograd functions of frozen blocks against stock autograd in float64: every kind of block, run or left out."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from da3.runtime.training.config import KEEP_PRECISIONS
from da3.toolchain.autograd import frozen, kernels, masks, parts
from da3.toolchain.autograd.frozen import run_block
from da3.toolchain.autograd.saved import SavedTensor
from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.network.adaptor import Adaptor

SIDE = 2
# A backbone, its options, and the blocks that between them cover strides, shortcuts, activations and paddings.
CASES = [
    ("mobilenet_v2", {"width": 0.35}, (0, 1, 2)),
    ("mobilenet_v2", {"width": 0.35, "padding": "tf"}, (1, 3)),
    ("efficientnet_lite0", {"width": 0.35}, (3, 4)),  # kernels of 5, with strides 2 and 1
    ("resnet18", {}, (0, 2)),
    ("resnet50", {}, (0, 1, 3, 4)),
]
BLOCKS = [(arch, options, i) for arch, options, indices in CASES for i in indices]


@pytest.fixture(scope="module")
def backbones():
    made = {}

    def get(arch, options):
        key = (arch, *sorted(options.items()))
        if key not in made:
            made[key] = load_backbone(arch, random_weights(arch, **options)).double()
        return made[key]

    return get


def stock_conv(conv, x):
    top, left, bottom, right = conv.pads
    y = F.conv2d(F.pad(x, (left, right, top, bottom)), conv.weight, conv.bias, conv.stride, 0, 1, conv.groups)
    return {None: lambda t: t, "relu": F.relu, "relu6": F.relu6}[conv.activation](y)


def stock_block(block, x, added, run=True):
    """The docstring's formula in ordinary operations."""
    y = x
    for conv in block.convs:
        y = stock_conv(conv, y)
    if not run:
        y = torch.zeros_like(y)
    if block.projection is not None:
        y = y + stock_conv(block.projection, x)
    elif block.has_shortcut:
        y = y + x
    if added is not None:
        y = y + F.interpolate(added, scale_factor=y.shape[-1] // SIDE)
    return F.relu(y) if block.activation == "relu" else y


def gradients(function, inputs, weight):
    leaves = [t.detach().clone().requires_grad_(True) for t in inputs]
    out = function(*leaves)
    found = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
    return out.detach(), [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, found, strict=True)]


def assert_close(found, expected):
    assert (found - expected).abs().max() <= 1e-10 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("part_bytes", [parts.PART_BYTES, 1], ids=["together", "one at a time"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize(("arch", "options", "index"), BLOCKS, ids=lambda v: str(v))
def test_gradients_equal_stock_autograd(arch, options, index, run, layout, part_bytes, backbones, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    block = backbones(arch, options).blocks[index]
    if not run and not block.has_shortcut:
        pytest.skip("no shortcut, so it cannot be left out")
    torch.manual_seed(index)
    x = torch.randn(3, block.in_channels, 8, 8, dtype=torch.float64).to(memory_format=layout)
    height = block.out_height(8)
    added = torch.randn(3, block.out_channels, SIDE, SIDE, dtype=torch.float64)
    weight = torch.randn(3, block.out_channels, height, height, dtype=torch.float64).to(memory_format=layout)
    inputs = [x, added]

    def stock(x, added):
        return stock_block(block, x, added, run)

    def ours(x, added):
        return run_block(block, x, added, run=run)

    out, found = gradients(ours, inputs, weight)
    expected_out, expected = gradients(stock, inputs, weight)
    assert_close(out, expected_out)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)
    with torch.no_grad():
        assert_close(ours(*inputs), expected_out)


@pytest.mark.parametrize("part_bytes", [parts.PART_BYTES, 1], ids=["together", "one at a time"])
@pytest.mark.parametrize(("arch", "options", "index"), BLOCKS, ids=lambda v: str(v))
def test_biases_get_their_gradients(arch, options, index, part_bytes, backbones, monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    block = backbones(arch, options).blocks[index]
    x = torch.randn(2, block.in_channels, 8, 8, dtype=torch.float64)
    for conv in block.every_conv:
        conv.bias.requires_grad_(True)
    try:
        biases = [conv.bias for conv in block.every_conv]
        found = torch.autograd.grad(run_block(block, x).square().sum(), biases)
        expected = torch.autograd.grad(stock_block(block, x, None).square().sum(), biases)
    finally:
        for conv in block.every_conv:
            conv.bias.requires_grad_(False)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize(("arch", "options", "index"), BLOCKS, ids=lambda v: str(v))
def test_skip_path_leaves_the_branch_out_of_the_gradient(arch, options, index, size, backbones):
    block = backbones(arch, options).blocks[index]
    x = torch.randn(2, block.in_channels, size, size, dtype=torch.float64)
    height = block.out_height(size)
    added = torch.randn(2, block.out_channels, SIDE, SIDE, dtype=torch.float64)
    weight = torch.randn(2, block.out_channels, height, height, dtype=torch.float64)
    factor = height // SIDE

    def stock(x, added):
        if not block.has_shortcut:  # there the branch is the only way
            return stock_block(block, x, added)
        branch = x
        for conv in block.convs:
            branch = stock_conv(conv, branch)
        shortcut = x if block.projection is None else stock_conv(block.projection, x)
        return branch.detach() + shortcut + F.interpolate(added, scale_factor=factor)

    _, found = gradients(lambda x, a: run_block(block, x, a, skip_path=True), [x, added], weight)
    if block.activation == "relu" and block.has_shortcut:
        passed = (stock(x, added) > 0).double()
        if factor**2 > 8:  # the gradient is a mean over each cell, and the mask 8 bits of a share
            share = (F.avg_pool2d(passed, factor) * 255).round() / 255
            weight = F.interpolate(F.avg_pool2d(weight, factor) * share, scale_factor=factor)
        else:
            weight = weight * passed
    _, expected = gradients(stock, [x, added], weight)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_tail_and_lone_convolutions(backbones):
    tail = backbones("mobilenet_v2", {"width": 0.35}).tail
    x = torch.randn(2, tail.conv.weight.shape[1], 4, 4, dtype=torch.float64)
    weight = torch.randn(2, tail.conv.weight.shape[0], dtype=torch.float64)
    _, found = gradients(tail, [x], weight)
    _, expected = gradients(lambda x: stock_conv(tail.conv, x).mean((2, 3)), [x], weight)
    assert_close(found[0], expected[0])


@pytest.mark.parametrize("precision", KEEP_PRECISIONS)
def test_adaptor_gradients(precision):
    torch.manual_seed(0)
    adaptor = Adaptor(cin=6, cout=5, mid=4, side=SIDE).double()
    with torch.no_grad():
        for parameter in adaptor.parameters():
            parameter.normal_()
    x = torch.randn(3, 6, 8, 8, dtype=torch.float64)
    parameters = list(adaptor.parameters())

    def outcome(x, ours):
        if ours:
            same, (p, a, _) = adaptor(x, precision)
        else:
            p = F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)
            a, same = adaptor.compute(p), x
        return same.square().sum() + p.pow(3).sum() + a.square().sum()

    results = []
    for ours in (True, False):
        leaf = x.clone().requires_grad_(True)
        results.append(torch.autograd.grad(outcome(leaf, ours), [leaf, *parameters]))
    tolerance = {"fp32": 1e-12, "bf16": 2e-2, "int8": 2e-2}[precision]
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max()))
    with torch.no_grad():
        assert_close(adaptor(x)[1].a, adaptor.compute(F.avg_pool2d(x, 4).flatten(2).transpose(1, 2)))


@pytest.mark.parametrize(("precision", "error"), [("fp32", 0.0), ("bf16", 2.0**-8), ("int8", 1.02 / 254)])
def test_saved_tensors_come_back_within_their_precision(precision, error):
    p = torch.randn(3, 9, 5) * torch.logspace(-3, 3, 5)
    saved = SavedTensor(p, precision)
    found = saved.restore(torch.float32)
    assert ((found - p).abs() <= error * p.abs().amax(1, keepdim=True)).all()
    assert saved.values.data_ptr() != p.data_ptr(), "a view of a full-size tensor would keep it alive"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("arch", "options", "index"), BLOCKS, ids=lambda v: str(v))
def test_the_fast_kernels_compute_the_same(arch, options, index, dtype, backbones):
    """float32 and bfloat16 go other ways than float64: fused operators, and patches where positions are few."""
    block = backbones(arch, options).blocks[index]
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    for height, batch in ((8, 3), (16, 2)):
        for conv in block.every_conv:
            x = torch.randn(batch, conv.weight.shape[1] * conv.groups, height, height, dtype=torch.float64)
            x = x.contiguous(memory_format=torch.channels_last).requires_grad_(True)
            expected = stock_conv(conv, x)
            weight = torch.randn_like(expected)
            (slope,) = torch.autograd.grad((expected * weight).sum(), x)
            small = copy.deepcopy(conv).to(dtype)
            found = kernels.convolve(small, x.detach().to(dtype), None, conv.activation)
            assert (found - expected).abs().max() <= tolerance * expected.abs().max()
            onto = torch.randn_like(expected)
            added = kernels.convolve(small, x.detach().to(dtype), onto.to(dtype), None)
            plain = kernels.convolve(small, x.detach().to(dtype), None, None)
            assert (added - plain - onto).abs().max() <= tolerance * (expected.abs().max() + onto.abs().max())
            mask = torch.ones_like(expected)
            if conv.activation is not None:
                mask = (expected > 0) & (expected < 6) if conv.activation == "relu6" else expected > 0
                found_mask = masks.Mask(expected.detach().to(dtype), conv.activation)
                near_six = (expected - 6).abs() < 0.05
                assert ((found_mask.on_(torch.ones_like(expected)) == 1) == mask)[~near_six].all()
            grad = (weight * mask).to(dtype).contiguous(memory_format=torch.channels_last)
            back = kernels.input_gradient(small, grad, height)
            assert (back - slope).abs().max() <= tolerance * slope.abs().max()
            with_onto = kernels.input_gradient(small, grad, height, x.detach().to(dtype))
            assert (with_onto - slope - x).abs().max() <= tolerance * (slope.abs().max() + x.abs().max())


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_mask_is_the_same_in_chunks(dtype, activation, monkeypatch):
    monkeypatch.setattr(masks, "CHUNK", 16)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64).mul(6).to(dtype)
    x[0, :, 0] = torch.tensor([0.0, -0.0, 6.0, 1e-38, 5.96875], dtype=dtype)
    y = x.relu() if activation == "relu" else x.clamp(0, 6)
    passed = (x > 0) & ((x < 6) | torch.tensor(activation == "relu"))
    grad = torch.randn(2, 3, 5, 5, dtype=torch.float64).to(dtype)
    found = masks.Mask(y, activation).on_(grad.clone(memory_format=torch.channels_last))
    assert torch.equal(found, grad * passed)
    apart = torch.zeros(2, 3, 5, 7, dtype=dtype)[..., 1:6]
    apart.copy_(grad)
    assert torch.equal(masks.Mask(y, activation).on_(apart), grad * passed), "a gradient that is no tensor of its own"


def test_parts_hold_what_they_may():
    block = load_backbone("mobilenet_v2", random_weights("mobilenet_v2", width=0.35)).blocks[1]
    x = torch.empty(7, block.in_channels, 16, 16)
    largest = 4 * block.largest_activation(16)
    assert largest == 4 * block.convs[0].out_channels * 16 * 16
    for room, sizes in ((largest - 1, [1] * 7), (3 * largest, [3, 3, 1]), (7 * largest, [7])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts, "PART_BYTES", room)
            found = parts.parts(block, x, True)
            assert [len(x[rows]) for rows in found] == sizes
            assert [i for rows in found for i in range(7)[rows]] == list(range(7))
            assert parts.parts(block, x, False) == [slice(0, 7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_BYTES", 5 * largest)
        sizes = [rows.stop - rows.start for rows in parts.parts(block, x[:6], True)]
        assert sizes == [3, 3], "equal ones"
        assert parts.parts(block, x[:0], True) == [slice(0, 0)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_bits_are_packed_the_same_everywhere(count):
    passed = torch.rand(count) > 0.5
    bits = masks.pack(passed)
    assert (bits.numpy() == np.packbits(passed.numpy())).all()
    assert torch.equal(masks.unpack(bits, count), passed)


def test_a_block_that_is_not_run_costs_nothing_either_way(backbones, monkeypatch):
    block = backbones("resnet50", {}).blocks[1]
    seen = []
    for name in ("convolve", "input_gradient"):
        real = getattr(kernels, name)
        monkeypatch.setattr(
            frozen, name, lambda conv, x, *rest, real=real, **more: seen.append(len(x)) or real(conv, x, *rest, **more)
        )
    x = torch.randn(5, block.in_channels, 8, 8, dtype=torch.float64, requires_grad=True)
    added = torch.zeros(5, block.out_channels, SIDE, SIDE, dtype=torch.float64)
    run_block(block, x, added, run=False).sum().backward()
    assert not seen
    run_block(block, x, added).sum().backward()
    assert seen == [5] * 6, "three convolutions forward and three backward"


def test_a_block_saves_bits_and_cells_only(backbones):
    """What autograd holds between forward and backward, in bytes."""
    block = backbones("resnet50", {}).blocks[1].float()
    x = torch.randn(2, block.in_channels, 16, 16).contiguous(memory_format=torch.channels_last)
    y = run_block(block, x.requires_grad_(True))
    ((_, saved),) = y.grad_fn.parts
    masks = [*saved.inner, saved.outer]
    assert sum(mask.bits.nbytes for mask in masks) == (64 + 64 + 256) * 16 * 16 * 2 / 8
    held = {t.numel() for t in vars(y.grad_fn).values() if isinstance(t, torch.Tensor)}
    assert not held and y.grad_fn.saved_tensors == ()
    block.double()
