"""Shapes of the values of a graph whose first dimension may grow with the batch, as learning asks for them.

A dimension is a number, or ANY where it grows with the batch. That is always the first: batches are never split.
"""

from typing import Dict, List, Mapping

from ..errors import BundleError
from ..onnx_graph.model import Model, Node
from ..onnx_graph.operator_shapes import Dims, Operands, Refused, output_shape

ANY = -1
_BATCH = 1000003  # so many photos stand for ANY where shapes are numbers: a prime beyond all that a network has


def value_shapes(model: Model, shapes: Mapping[str, Dims]) -> Dict[str, Dims]:
    """The shape of every value of a graph, from those of its inputs. Raises BundleError for an operator that is not
    known, or that cannot take what it is given."""
    known: Dict[str, Dims] = {
        name: (_BATCH,) + dims[1:] if dims[:1] == (ANY,) else tuple(dims) for name, dims in shapes.items()
    }
    known.update((name, array.shape) for name, array in model.weights.items())
    for node in model.nodes:
        constants = [model.weights.get(name) for name in node.inputs]
        try:
            made = output_shape(node, Operands([known.get(name) for name in node.inputs], constants))
        except Refused as refused:
            raise BundleError(
                "learning cannot take operator %s (node %s): %s; learn with `da3 train`"
                % (node.op, node.outputs[0], refused)
            )
        known[node.outputs[0]] = made
    return {name: (ANY,) + dims[1:] if _grows(dims) else dims for name, dims in known.items()}


def _grows(dims: Dims) -> bool:
    """Is the first a multiple of the batch?"""
    return bool(dims) and dims[0] > 0 and dims[0] % _BATCH == 0


def integers(node: Node, name: str, default: List[int]) -> List[int]:
    """An attribute that is a list of integers."""
    return [int(n) for n in node.attributes.get(name, default)]  # type: ignore[union-attr]


def integer(node: Node, name: str, default: int) -> int:
    """An attribute that is an integer."""
    return int(node.attributes.get(name, default))  # type: ignore[arg-type]
