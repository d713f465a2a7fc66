"""The gradient of each operator that bundles are written with, as nodes of opset 13.

A rule gets the graph to append to, a node y = op(..., x, ...), the place of x among its inputs and the name of dL/dy,
and gives the name of dL/dx. It reads the node's inputs and its output as the forward pass has them.
"""

from typing import Callable, Dict

from ...onnx_graph.model import Node
from ..writing import GraphWriter
from .activations import clip, relu
from .arithmetic import add, gemm, multiply, subtract
from .convolution import conv
from .pools import average_pool, global_average_pool, resize
from .rearranged import concat, reshaped, transpose
from .reductions import reduce_max, reduce_mean

Rule = Callable[[GraphWriter, Node, int, str], str]

RULES: Dict[str, Rule] = {
    "Add": add,
    "AveragePool": average_pool,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "Flatten": reshaped,
    "Gemm": gemm,
    "GlobalAveragePool": global_average_pool,
    "Identity": lambda out, node, place, dy: dy,
    "Mul": multiply,
    "ReduceMax": reduce_max,
    "ReduceMean": reduce_mean,
    "Relu": relu,
    "Reshape": reshaped,
    "Resize": resize,
    "Sub": subtract,
    "Transpose": transpose,
}

__all__ = ["RULES", "Rule"]
