"""Sums of values in blocks (NCHWc), done by the convolution that computes one of them.

Where the batch has no fixed size ONNX Runtime's optimiser is not sure that two values in blocks have one shape, so it
gives both of them another shape, adds them, and changes it back. A convolution on blocks can add what it computes to a
value that is there: the sum then takes no pass over memory of its own.
"""

from typing import Dict, List, Optional

import numpy as np

from ..onnx_graph.joining import pruned
from ..onnx_graph.model import Model, Node
from .blocked_elementwise import DOMAIN


def sums_in_convolutions(model: Model) -> Model:
    """A copy of what ONNX Runtime saved, which computes the same, but for the order of each sum. Only to be loaded
    without further optimising."""
    return _Pass(model).result()


class _Pass:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._writers = {name: node for node in model.nodes for name in node.outputs}
        self._readers: Dict[str, List[Node]] = {}
        for node in model.nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {info.name for info in model.outputs}
        self._blocked = {name for node in model.nodes if node.domain == DOMAIN for name in node.outputs}

    def result(self) -> Model:
        instead: Dict[int, Node] = {}  # by the node whose place it takes
        for node in self._model.nodes:
            found = self._sum(node) if node.op == "Add" and not node.domain else None
            if found is None:
                continue
            place = self._readers[node.outputs[0]][0]
            instead[id(place)] = found
            self._writers[found.outputs[0]] = found
            self._blocked.add(found.outputs[0])
        nodes = [instead.get(id(node), node) for node in self._model.nodes]
        return pruned(self._model.replace(nodes))

    def _sum(self, node: Node) -> Optional[Node]:
        """What writes the sum in blocks, if both of a node's inputs are values in blocks of one shape."""
        sources = [self._reshaped(name) for name in node.inputs]
        back = self._only_reader(node.outputs[0])
        if None in sources or back is None or back.op != "Reshape":
            return None
        one, other = (source.inputs for source in sources if source is not None)
        if not np.array_equal(self._model.weights[one[1]], self._model.weights[other[1]]):
            return None
        for term, rest in ((one[0], other[0]), (other[0], one[0])):
            conv = self._writers[term]
            plain = conv.op == "Conv" and len(conv.inputs) < 4 and "activation" not in conv.attributes
            if plain and len(self._readers[term]) == 1 and term not in self._outputs and term != rest:
                inputs = (conv.inputs + [""])[:3] + [rest]
                return conv.replace(inputs, back.outputs)
        return node.replace([one[0], other[0]], back.outputs)

    def _reshaped(self, name: str) -> Optional[Node]:
        """The Reshape of a value in blocks that writes this value."""
        node = self._writers.get(name)
        if node is None or node.op != "Reshape" or node.inputs[0] not in self._blocked:
            return None
        return node if node.inputs[1] in self._model.weights else None

    def _only_reader(self, name: str) -> Optional[Node]:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs else None
