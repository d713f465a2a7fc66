"""Gradients of means over cells and of repeated cells: each is the other's transpose, but for a factor."""

from typing import List

import numpy as np

from ...errors import BundleError
from ...onnx_graph.model import Node
from ...onnx_graph.operator_shapes import Dims
from ...records import Array
from ..shapes import integers
from ..writing import GraphWriter


def average_pool(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """Cells that do not overlap, or means over 3 x 3 and the like, whose cells outside are not counted."""
    kernel = integers(node, "kernel_shape", [])
    strides = integers(node, "strides", [1, 1])
    pads = integers(node, "pads", [0, 0, 0, 0])
    near = "d/" + node.inputs[0]
    height, width = out.shapes[node.inputs[0]][2:]
    if strides == kernel and not any(pads) and height % kernel[0] == width % kernel[1] == 0:
        part = out.node("Mul", [dy, out.number(1.0 / (kernel[0] * kernel[1]))], near)
        return repeated(out, part, kernel, near)
    odd = all(k % 2 for k in kernel)
    if (
        strides == [1, 1]
        and odd
        and pads == [k // 2 for k in kernel] * 2
        and not node.attributes.get("count_include_pad")
    ):
        # As many means have a cell as it has neighbours, and each of them divides by its own count.
        area = kernel[0] * kernel[1]
        shares = (area / _counts(kernel, (height, width))).astype(np.float32)
        part = out.node("Mul", [dy, out.constant("shares/%dx%d" % (height, width), shares)], near)
        return out.node("AveragePool", [part], near, kernel_shape=kernel, pads=pads, count_include_pad=1)
    raise BundleError("AveragePool %s has a form whose gradient is not known: learn with `da3 train`" % node.outputs[0])


def _counts(kernel: List[int], size: Dims) -> Array:
    """How many cells of the image each window of stride 1 has, (1, 1, H, W)."""
    sides = []
    for k, n in zip(kernel, size):
        at = np.arange(n)
        sides.append(np.minimum(at + k // 2, n - 1) - np.maximum(at - k // 2, 0) + 1)
    counts: Array = np.multiply.outer(sides[0], sides[1])
    return counts.reshape((1, 1) + size)


def repeated(out: GraphWriter, x: str, factors: List[int], near: str) -> str:
    """Each cell repeated: (B, C, H, W) -> (B, C, H f, W g)."""
    name = "scales/%dx%d" % (factors[0], factors[1])
    scales = out.constant(name, np.array([1, 1] + factors, np.float32))
    return out.node(
        "Resize",
        [x, "", scales],
        near,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def resize(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """Of cells that were repeated: the sum over each cell's copies."""
    scales = out.weights[node.inputs[2]]
    kernel = [int(n) for n in scales[2:]]
    if node.attributes.get("mode") != "nearest" or list(scales) != [1, 1] + kernel:
        raise BundleError("Resize %s is not a repetition of cells: learn with `da3 train`" % node.outputs[0])
    near = "d/" + node.inputs[0]
    mean = out.node("AveragePool", [dy], near, kernel_shape=kernel, strides=kernel)
    return out.node("Mul", [mean, out.number(float(kernel[0] * kernel[1]))], near)


def global_average_pool(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dx = dy / (H W) in every cell."""
    height, width = out.shapes[node.inputs[0]][2:]
    near = "d/" + node.inputs[0]
    part = out.node("Mul", [dy, out.number(1.0 / (height * width))], near)
    return repeated(out, part, [height, width], near)
