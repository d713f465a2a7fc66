"""Frozen convolutions as fast as the device allows: forward, and the gradient of their input.

Tensors are channels-last: a 1x1 convolution is then a matrix product on (B*H*W, C) as it lies in memory. On a CPU
PyTorch hands such products to a library that leaves half of an AVX-512 core unused. They are handed to oneDNN here,
which also adds and rectifies in the same pass and needs no second copy of the weights. Everything else (a GPU, float64,
a PyTorch without oneDNN) takes PyTorch's public functions. Nothing here records gradients.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from da3.toolchain.autograd.conv import FrozenConv, Pads

SIX = 6.0
_UNARY = {None: ("none", []), "relu": ("relu", []), "relu6": ("hardtanh", [0.0, SIX])}


@cache
def _onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused operators exist here for ``dtype`` and agree with PyTorch's own."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    try:
        if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        x = torch.linspace(-1, 1, 32).view(4, 8).to(dtype)
        weight = torch.linspace(-1, 1, 40).view(5, 8).to(dtype)
        bias = torch.linspace(-1, 1, 5)
        found = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "hardtanh", [0.0, SIX], "")
        expected = (x.float() @ weight.float().T + bias).clamp(0, SIX)
        images = x.view(1, 2, 4, 4).contiguous(memory_format=torch.channels_last)
        kernel = weight[:, :6].reshape(-1)[:18].view(1, 2, 3, 3)
        conv = _convolution(images, kernel, bias[:1], (1, 1), 1, 1, "relu")
        images_expected = F.conv2d(images.float(), kernel.float(), bias[:1], padding=1).relu()
    except (AttributeError, RuntimeError, TypeError):  # another PyTorch: its private operators may differ
        return False
    close = 1e-5 if dtype is torch.float32 else 5e-2
    return bool(
        torch.allclose(found.float(), expected, atol=close)
        and torch.allclose(conv.float(), images_expected, atol=close)
    )


def fast(x: Tensor) -> bool:
    """Whether products with ``x`` go to oneDNN directly."""
    return x.device.type == "cpu" and _onednn(x.dtype)


def activate_(x: Tensor, name: str | None) -> Tensor:
    """Apply the activation called ``name`` in place: None, "relu" or "relu6"."""
    if name == "relu":
        return x.relu_()
    if name == "relu6":
        return x.clamp_(0, SIX)
    return x


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B*H*W, C), without a copy where ``x`` is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """(B*H*W, C) -> channels-last (B, C, H, W) with the B, H, W of ``like``."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _like(bias: Tensor | None, x: Tensor) -> Tensor | None:
    """A bias of x's type, where what computes takes no other beside a bfloat16 x."""
    return None if bias is None else bias.to(x.dtype)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, onto: Tensor | None) -> Tensor:
    """activation(x weight^T + bias + onto) of images x (B, C, H, W) and weight (C', C); onto (B, C', H, W)."""
    rows = _rows(x)
    if not fast(x):
        found = _image(F.linear(rows, weight, _like(bias, x)), x)
        return activate_(found if onto is None else found.add_(onto), activation)
    name, scalars = _UNARY[activation]
    if onto is None:
        return _image(torch.ops.mkldnn._linear_pointwise(rows, weight, bias, name, scalars, ""), x)
    found = torch.ops.mkldnn._linear_pointwise.binary(rows, _rows(onto), weight, _like(bias, x), "add")
    return activate_(_image(found, x), activation)


def convolve(conv: FrozenConv, x: Tensor, onto: Tensor | None = None, activation: str | None = None) -> Tensor:
    """activation(conv(x) + onto): x (B, C, H, W) -> a new tensor (B, C', H', W'); conv's own activation is not used.

    ``onto`` (B, C', H', W') may be overwritten.
    """
    top, left, bottom, right = conv.pads
    if conv.kernel == 1:
        x = x if conv.stride == 1 else x[:, :, :: conv.stride, :: conv.stride]
        return _product(x, conv.weight.flatten(1), conv.bias, activation, onto)
    s = conv.stride
    if fast(x) and _few_positions(conv, conv.out_height(x.shape[-1]), len(x)):
        return _convolve_patches(conv, x, onto, activation)
    if (top, left) != (bottom, right):
        x, top, left = _padded(x, conv.pads), 0, 0
    if not fast(x):
        plain = F.conv2d(x, conv.weight, _like(conv.bias, x), s, (top, left), groups=conv.groups)
        return activate_(plain if onto is None else plain.add_(onto), activation)
    if onto is None:
        return _convolution(x, conv.weight, conv.bias, (top, left), s, conv.groups, activation)
    geometry = ([top, left], [s, s], [1, 1], conv.groups)
    then = "relu" if activation == "relu" else None
    binary = torch.ops.mkldnn._convolution_pointwise_.binary
    binary(onto, x, conv.weight, _like(conv.bias, x), *geometry, "add", 1.0, then, [], None)
    return onto if activation == "relu" else activate_(onto, activation)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pads: tuple[int, int],
    stride: int,
    groups: int,
    activation: str | None,
) -> Tensor:
    """oneDNN's, with an activation in the same pass. ``pads``: on top and below, left and right."""
    name, scalars = _UNARY[activation]
    fused = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = fused(x, weight, bias, [*pads], [stride, stride], [1, 1], groups, name, scalars, "")
    return y


def _padded(x: Tensor, pads: Pads) -> Tensor:
    """x (B, C, H, W), channels-last, between zeros. PyTorch's own would first write zeros everywhere."""
    top, left, bottom, right = pads
    batch, channels, height, width = x.shape
    rows = x.new_empty(batch, top + height + bottom, left + width + right, channels)
    for border in (rows[:, :top], rows[:, top + height :], rows[:, :, :left], rows[:, :, left + width :]):
        border.zero_()
    rows[:, top : top + height, left : left + width] = x.permute(0, 2, 3, 1)
    return rows.permute(0, 3, 1, 2)


def input_gradient(conv: FrozenConv, grad: Tensor, height: int, onto: Tensor | None = None) -> Tensor:
    """conv^T(grad) + onto: grad (B, C', H', W') -> a new tensor (B, C, height, height)."""
    s = conv.stride
    if conv.kernel == 1:
        weight = conv.weight.flatten(1).T
        if s == 1:
            return _product(grad, weight, None, None, onto)
        shape = (len(grad), height, height, weight.shape[0])
        found = grad.new_zeros(shape).permute(0, 3, 1, 2) if onto is None else onto.clone()
        found[:, :, ::s, ::s] += _product(grad, weight, None, None, None)
        return found
    if fast(grad) and _few_positions(conv, grad.shape[-1], len(grad)):
        found = _patches_gradient(conv, grad, height)
        return found if onto is None else found.add_(onto)
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if fast(grad) and depthwise and (s == 1 or grad.dtype is torch.bfloat16):
        found = _depthwise_gradient(conv, grad, height)
        return found if onto is None else found.add_(onto)
    top, left, bottom, right = conv.pads
    symmetric = (top, left) == (bottom, right)
    padded = height + top + bottom
    # A convolution that does not reach its last rows gives them no gradient: that many zeros are appended.
    unreached = padded - ((grad.shape[-1] - 1) * s + conv.kernel)
    grad = grad.contiguous(memory_format=torch.channels_last)
    pads = (top, left) if symmetric else (0, 0)
    found = F.conv_transpose2d(grad, conv.weight, None, s, pads, unreached, conv.groups)
    if not symmetric:
        found = found[:, :, top : top + height, left : left + height]
    return found if onto is None else found.add_(onto)


def _depthwise_gradient(conv: FrozenConv, grad: Tensor, height: int) -> Tensor:
    """``input_gradient`` of a depthwise convolution: one of stride 1 with the flipped kernel, of the gradient with
    ``stride - 1`` zeros between its numbers.

    oneDNN's own takes up to twice as long without a stride; with one it takes half as long in float32, and 12 to 50
    times as long in bfloat16.
    """
    top, left, bottom, right = conv.pads
    s, reach = conv.stride, conv.kernel - 1
    pads = (reach - top, reach - left)
    if s > 1 or (top, left) != (bottom, right):
        rows, columns = (slice(at, at + (side - 1) * s + 1, s) for at, side in zip(pads, grad.shape[2:], strict=True))
        spread = grad.new_zeros(len(grad), height + reach, height + reach, grad.shape[1])
        spread[:, rows, columns] = grad.permute(0, 2, 3, 1)
        grad, pads = spread.permute(0, 3, 1, 2), (0, 0)
    return _convolution(grad, conv.weight.flip(2, 3), None, pads, 1, conv.groups, None)


# At few positions most of what a convolution reads is its weights, and oneDNN would first copy them into an order of
# its own at every call. A product with the k x k neighbourhood of each position, written out, reads them as they are.


def _few_positions(conv: FrozenConv, side: int, batch: int) -> bool:
    """Whether writing out the neighbourhoods copies less than a copy of the weights would."""
    return conv.groups == 1 and batch * side * side <= conv.weight.shape[0]


def _taps(conv: FrozenConv) -> Tensor:
    """Weights (C', k*k*C) as they lie in memory."""
    return conv.weight.permute(0, 2, 3, 1).flatten(1)


def _convolve_patches(conv: FrozenConv, x: Tensor, onto: Tensor | None, activation: str | None) -> Tensor:
    padded = _padded(x, conv.pads).permute(0, 2, 3, 1)
    k, s = conv.kernel, conv.stride
    side = (padded.shape[1] - k) // s + 1
    batch, row, column, one = padded.stride()
    shape = (len(x), side, side, k, k, x.shape[1])
    patches = padded.as_strided(shape, (batch, row * s, column * s, row, column, one)).flatten(3).permute(0, 3, 1, 2)
    return _product(patches, _taps(conv), conv.bias, activation, onto)


def _patches_gradient(conv: FrozenConv, grad: Tensor, height: int) -> Tensor:
    top, left, bottom, right = conv.pads
    k, s, side = conv.kernel, conv.stride, grad.shape[-1]
    patches = _product(grad, _taps(conv).T, None, None, None).permute(0, 2, 3, 1)
    patches = patches.view(len(grad), side, side, k, k, conv.in_channels)
    padded = grad.new_zeros(len(grad), height + top + bottom, height + left + right, patches.shape[-1])
    for i in range(k):
        for j in range(k):
            padded[:, i : i + s * side : s, j : j + s * side : s] += patches[:, :, :, i, j]
    return padded[:, top : top + height, left : left + height].permute(0, 3, 1, 2)
