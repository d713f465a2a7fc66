"""Kernels that are held once, for both passes, though that takes longer.

The convolutions of the backward pass read flipped kernels, in the layout that is fastest: copies, which for a ResNet-50
are 90 MB. A ConvTranspose reads the forward pass's own, in the ordinary layout, in which both take half as long again.
The time that it costs grows with the cells that are computed, and what it saves does not: so the largest kernels, which
are those of the smallest maps, are the cheapest to hold once.
"""

from typing import Set

from .shapes import integer, integers
from .writing import GraphWriter

LARGE = 1 << 20  # numbers; those of a ResNet-50's last stage, and none of a MobileNetV2


def large_kernels(out: GraphWriter) -> Set[str]:
    """The names of the constants that are large kernels of one convolution without groups."""
    found: Set[str] = set()
    for node in out.nodes:
        if node.op != "Conv" or integer(node, "group", 1) != 1 or integers(node, "dilations", [1, 1]) != [1, 1]:
            continue
        kernel = out.weights.get(node.inputs[1])
        if kernel is not None and kernel.size >= LARGE:
            found.add(node.inputs[1])
    return found
