"""The gradient of a convolution's input, as convolutions: ConvTranspose is slow where it has groups.

With x (B, C, H, W), a kernel (O, C / g, kh, kw), stride s and t cells of padding before, along either axis

    y[i] = sum over k of w[k] x[s i + k - t]
    dx[j] = sum over k of w[k]^T dy[(j + t - k) / s]        over those k for which that is a whole number

With stride 1 this is one convolution with the flipped kernel. With stride s, the j of equal remainder form a phase,
which reads the same few k for all of them: a convolution of dy with a part of the flipped kernel. The phases are put
side by side, s x s channels for one, and then into their places. No zero is multiplied.

All of these hold the kernel a second time, flipped. A kernel that is to be held once is read by ConvTranspose, which is
not slow without groups.
"""

from typing import List, NamedTuple, Optional

from ...errors import BundleError
from ...onnx_graph.model import Node
from ...onnx_graph.operator_shapes import Dims
from ...records import Array
from ..shapes import integer, integers
from ..writing import GraphWriter


class _Taps(NamedTuple):
    """Along one axis, what a phase's convolution reads. kernel: the indices k, in the order of the cells of dy that
    they meet; before, after: cells of padding."""

    kernel: List[int]
    before: int
    after: int


def conv(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dx for an x whose kernel is a constant."""
    x, weight = node.inputs[:2]
    if place != 0 or weight not in out.weights:
        raise BundleError(
            "Conv %s learns its kernel, which is not known here: learn with `da3 train`" % node.outputs[0]
        )
    kernel = out.weights[weight]
    strides = integers(node, "strides", [1, 1])
    pads = integers(node, "pads", [0, 0, 0, 0])
    group = integer(node, "group", 1)
    if strides[0] != strides[1] or integers(node, "dilations", [1, 1]) != [1, 1]:
        raise BundleError("Conv %s has a form whose gradient is not known: learn with `da3 train`" % node.outputs[0])
    stride = strides[0]
    sizes, made = out.shapes[x][2:], out.shapes[node.outputs[0]][2:]
    if weight in out.held_once:
        return _with_the_same_kernel(out, node, dy, kernel.shape[2:], stride, pads)
    axes = [
        [_taps(k, stride, phase, before, -(-n // stride), m) for phase in range(stride)]
        for k, before, n, m in zip(kernel.shape[2:], pads, sizes, made)
    ]
    flat = _transposed(kernel, group)
    near = "d/" + x
    phases = [_phase(out, dy, flat, weight, group, rows, columns, near) for rows in axes[0] for columns in axes[1]]
    if stride == 1:
        assert phases[0] is not None
        return phases[0]
    return _interleaved(out, phases, stride, x, near)


def _with_the_same_kernel(out: GraphWriter, node: Node, dy: str, kernel: Dims, stride: int, pads: List[int]) -> str:
    """dx by ConvTranspose, which reads the kernel as the forward pass has it."""
    x = node.inputs[0]
    sizes, made = out.shapes[x][2:], out.shapes[node.outputs[0]][2:]
    ends = [n - ((m - 1) * stride + k - pads[i] - pads[i + 2]) for i, (n, m, k) in enumerate(zip(sizes, made, kernel))]
    return out.node(
        "ConvTranspose",
        [dy, node.inputs[1]],
        "d/" + x,
        kernel_shape=list(kernel),
        strides=[stride, stride],
        pads=pads,
        output_padding=ends,
    )


def _taps(size: int, stride: int, phase: int, before: int, wanted: int, given: int) -> Optional[_Taps]:
    """Of a kernel of `size`, for the `phase` of x, of which `wanted` cells are to be made of `given` cells of dy; None
    if no cell of the kernel meets it. before: padding of x."""
    kernel = list(range((phase + before) % stride, size, stride))[::-1]
    if not kernel:
        return None
    first, last = ((phase + before - k) // stride for k in (kernel[0], kernel[-1]))  # of dy, for the phase's cell 0
    return _Taps(kernel, -first, wanted - 1 + last - (given - 1))


def _transposed(kernel: Array, group: int) -> Array:
    """(O, C / g, kh, kw) -> (C, O / g, kh, kw): channels in and out change places within each group."""
    made, channels = kernel.shape[:2]
    parts: Array = kernel.reshape((group, made // group, channels) + kernel.shape[2:])
    parts = parts.transpose(0, 2, 1, 3, 4)
    return parts.reshape((group * channels, made // group) + kernel.shape[2:])


def _phase(
    out: GraphWriter,
    dy: str,
    kernel: Array,
    name: str,
    group: int,
    rows: Optional[_Taps],
    columns: Optional[_Taps],
    near: str,
) -> Optional[str]:
    """The convolution of one phase; None if it is 0."""
    if rows is None or columns is None:
        return None
    pads = [rows.before, columns.before, rows.after, columns.after]
    if min(pads) < 0:
        raise BundleError("the kernel %s has a form whose gradient is not known: learn with `da3 train`" % name)
    part = kernel[:, :, rows.kernel][:, :, :, columns.kernel]
    weight = out.constant("transposed/" + name, part)
    return out.node("Conv", [dy, weight], near, kernel_shape=list(part.shape[2:]), pads=pads, group=group)


def _interleaved(out: GraphWriter, phases: List[Optional[str]], stride: int, x: str, near: str) -> str:
    """Phases (B, C, H / s, W / s), those of the first row first -> (B, C, H, W), the shape of x."""
    channels, height, width = out.shapes[x][1:]
    present = [phase for phase in phases if phase is not None]
    if len(present) < len(phases):
        zero = out.node("Mul", [present[0], out.number(0.0)], near)
        present = [zero if phase is None else phase for phase in phases]
    rows, columns = -(-height // stride), -(-width // stride)
    beside = out.node("Concat", present, near, axis=1)
    parts = out.node("Reshape", [beside, out.integers([-1, stride, stride, channels, rows, columns])], near)
    places = out.node("Transpose", [parts], near, perm=[0, 3, 4, 1, 5, 2])
    whole = out.node("Reshape", [places, out.integers([-1, channels, rows * stride, columns * stride])], near)
    if height % stride or width % stride:
        bounds = [out.integers(values) for values in ([0, 0], [height, width], [2, 3])]
        whole = out.node("Slice", [whole] + bounds, near)
    return whole
