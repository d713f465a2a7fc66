"""A graph that grows node by node: what derivations write with."""

from typing import Collection, Dict, Iterable, List, Mapping, Optional, Set

import numpy as np

from ..onnx_graph.model import AttributeValue, Model, Node, unused_name
from ..onnx_graph.operator_shapes import Dims
from ..records import Array
from .shapes import value_shapes


class GraphWriter:
    """The nodes and constants of a graph so far. shapes: of its values, those of the network and not of gradients.
    held_once: kernels of which gradients make no copy, see large_kernels.py."""

    def __init__(self, model: Model, shapes: Mapping[str, Dims]) -> None:
        """model: what is added to. shapes: of its inputs."""
        self.nodes = list(model.nodes)
        self.weights = dict(model.weights)
        self.shapes = value_shapes(model, shapes)
        self.held_once: Collection[str] = ()
        self._taken: Set[str] = model.value_names()
        self._behind: Dict[str, List[Node]] = {}

    def node(
        self, op: str, inputs: Iterable[str], near: str, behind: Optional[str] = None, **attributes: AttributeValue
    ) -> str:
        """Append a node; the name of its result, which is like `near`.

        behind: in the finished graph the node comes as soon as this value is there, not at the end.
        """
        result = unused_name("%s/%s" % (near, op), self._taken)
        node = Node(op, inputs, [result], attributes, name=result)
        if behind is None:
            self.nodes.append(node)
        else:
            self._behind.setdefault(behind, []).append(node)
        return result

    def finished(self) -> List[Node]:
        """Every node, in an order that can be run and keeps little alive."""
        nodes: List[Node] = []
        for node in self.nodes:
            nodes.append(node)
            for name in node.outputs:
                nodes += self._behind.get(name, [])
        return nodes

    def constant(self, name: str, array: Array) -> str:
        """Add a constant; its name, which is like `name`. An equal one of that name is used again."""
        found = self.weights.get(name)
        if found is not None and found.dtype == array.dtype and np.array_equal(found, array):
            return name
        name = unused_name(name, self._taken)
        self.weights[name] = np.ascontiguousarray(array).reshape(array.shape)  # numpy makes (1,) of a scalar
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant("number/%r" % float(value), np.array(value, np.float32))

    def integers(self, values: Iterable[int]) -> str:
        """An int64 vector: a shape, or axes."""
        values = list(values)
        return self.constant("integers/" + "_".join(map(str, values)), np.array(values, np.int64))

    def rename(self, value: str, name: str) -> None:
        """Give a node's output another name."""
        for node in self.finished():
            if value in node.inputs:
                node.inputs = [name if found == value else found for found in node.inputs]
            if value in node.outputs:
                node.outputs = [name if found == value else found for found in node.outputs]
