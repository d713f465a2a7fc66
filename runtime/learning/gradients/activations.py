"""Gradients of activations: the gradient passes where the output is inside of the limits, and nowhere else.

The mask is made of the output, which the next convolution reads anyway, so the convolution before can be fused with its
activation and its own result is kept nowhere.
"""

from ...onnx_graph.model import Node
from ..writing import GraphWriter

# HardSigmoid(y) = min(1, max(0, alpha y + beta)) with a slope so large that it is a step. A power of two: alpha y is
# exact then, and for y = 6 cancels beta.
STEEP = 2.0**100


def relu(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dx = dy where y > 0."""
    y = node.outputs[0]
    mask = out.node("HardSigmoid", [y], "d/" + y, alpha=STEEP, beta=0.0)
    return out.node("Mul", [dy, mask], "d/" + y)


def clip(out: GraphWriter, node: Node, place: int, dy: str) -> str:
    """dx = dy where low < y < high."""
    y = node.outputs[0]
    low, high = (float(out.weights[name].reshape(())) for name in node.inputs[1:3])
    half, middle = (high - low) / 2, (high + low) / 2
    # |y - 3| < 3: one comparison in the place of two.
    centred = out.node("Sub", [y, out.number(middle)], "d/" + y)
    distance = out.node("Abs", [centred], "d/" + y)
    mask = out.node("HardSigmoid", [distance], "d/" + y, alpha=-STEEP, beta=half * STEEP)
    return out.node("Mul", [dy, mask], "d/" + y)
