"""Where a float32 graph is quantised: what its convolutions read, and what sums add to their results.

The placement follows NVIDIA's for TensorRT ("Working with Quantized Types: Q/DQ Layer-Placement Recommendations", and
"Further optimization" in the ResNet-50 tutorial of pytorch-quantization): every input of a convolution; no result of a
convolution; and what is added to such a result, the residual. A convolution and the sum behind it are one kernel, which
gives what its residual is: with a float one it writes floats, and the quantiser behind it is a pass of its own over the
picture. INT8 pays where nothing else reads the sum as floats, so averages are taken of INT8 too, and must be INT8 then.
"""

from collections import defaultdict
from typing import Container, DefaultDict, Dict, List, Optional, Set, Tuple

from .model import Model, Node

ACTIVATIONS = ("Relu", "Clip")  # one kernel with the convolution or the sum before them
MOVES = ("Transpose", "Reshape")  # the same behind a dequantiser as before it


class Flow:
    """Who writes and who reads each value of a graph."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.given = {info.name for info in model.inputs}
        self.handed_out = {info.name for info in model.outputs}
        self.writers: Dict[str, Node] = {name: node for node in model.nodes for name in node.outputs}
        self._order = {name: number for number, node in enumerate(model.nodes) for name in node.outputs}
        self.readers: DefaultDict[str, List[Tuple[Node, int]]] = defaultdict(list)
        for node in model.nodes:
            for position, name in enumerate(node.inputs):
                self.readers[name].append((node, position))

    def is_convolution(self, node: Optional[Node]) -> bool:
        """Is it a convolution whose kernel is constant?"""
        return node is not None and node.op == "Conv" and node.inputs[1] in self.model.weights

    def is_sum(self, node: Optional[Node]) -> bool:
        """Is it a sum of two values, neither of them constant?"""
        return node is not None and node.op == "Add" and not any(name in self.model.weights for name in node.inputs)

    def passes_alone(self, name: str) -> bool:
        """Is there exactly one who reads the value?"""
        return len(self.readers[name]) == 1 and name not in self.handed_out

    def root(self, name: str) -> Optional[Node]:
        """What makes a value, but for the activations behind it; None for what the graph is given."""
        node = self.writers.get(name)
        while node is not None and node.op in ACTIVATIONS and self.passes_alone(node.inputs[0]):
            node = self.writers.get(node.inputs[0])
        return node

    def end(self, node: Node) -> str:
        """The value that leaves the activations behind a node."""
        name = node.outputs[0]
        while self.passes_alone(name):
            reader, position = self.readers[name][0]
            if reader.op not in ACTIVATIONS or position != 0:
                break
            name = reader.outputs[0]
        return name

    def source(self, name: str) -> str:
        """The value before a Resize that does nothing but repeat it for one reader; else the value itself."""
        writer = self.writers.get(name)
        return writer.inputs[0] if writer is not None and writer.op == "Resize" and self.passes_alone(name) else name

    def residuals(self, node: Node) -> List[str]:
        """What a sum adds to the result of a convolution that nobody else reads, or both its inputs.

        Of two convolutions the one that comes later counts: by then the other's result is there.
        """
        alone = [name for name in node.inputs if self.passes_alone(name)]
        fused = [name for name in alone if self.is_convolution(self.writers.get(name))]
        latest = sorted(fused, key=self._order.__getitem__)[-1:]
        return [name for name in node.inputs if name not in latest]


def convolved(model: Model) -> Dict[str, bool]:
    """The values that a graph's convolutions with constant kernels read, and whether all of these are depthwise."""
    flow = Flow(model)
    found: Dict[str, bool] = {}
    for node in filter(flow.is_convolution, model.nodes):
        depthwise = model.weights[node.inputs[1]].shape[1] == 1 and node.attributes.get("group", 1) != 1
        found[node.inputs[0]] = depthwise and found.get(node.inputs[0], True)
    return found


def summed(model: Model) -> Set[str]:
    """The values that must be rounded, beside what convolutions read, for the sum that a graph gives to be INT8.

    They are what that sum and the sums in it add, and the averages of what the graph is given. A sum counts that adds
    to a convolution's result, or to what the graph is given: others are small.
    """
    flow = Flow(model)
    found = {n.outputs[0] for n in model.nodes if n.op == "AveragePool" and n.inputs[0] in flow.given}
    waiting = [info.name for info in model.outputs]
    while waiting:
        root = flow.root(waiting.pop())
        if root is None or not flow.is_sum(root):
            continue
        if any(name in flow.given or flow.is_convolution(flow.root(name)) for name in root.inputs):
            residuals = flow.residuals(root)
            found.update(flow.source(name) for name in residuals)
            waiting += residuals
    return found


def only_int8(flow: Flow, convolutions: Container[str], known: Container[str]) -> Set[str]:
    """The values inside a graph that are made and read as INT8, and nowhere as floats.

    convolutions: the values that are rounded for convolutions. known: all whose magnitudes are known.
    """
    found: Set[str] = set()

    def is_taken(reader: Node, position: int, name: str) -> bool:
        if reader.op == "AveragePool":
            return reader.outputs[0] in known
        if reader.op in MOVES:
            return True
        if flow.is_sum(reader) and flow.end(reader) in found:
            return True
        # A sum of floats may read what must be rounded anyway.
        return name in convolutions and (flow.is_sum(reader) or (flow.is_convolution(reader) and position == 0))

    def is_given(root: Optional[Node]) -> bool:
        if root is None or not flow.is_sum(root):
            return root is not None and flow.is_convolution(root) and root.inputs[0] in convolutions
        residuals = flow.residuals(root)
        fused = [flow.writers[name] for name in root.inputs if name not in residuals]
        return all(node.inputs[0] in convolutions for node in fused) and all(flow.source(n) in known for n in residuals)

    for node in reversed(flow.model.nodes):  # who reads a value comes before who writes it
        for name in node.outputs:
            readers = flow.readers[name]
            is_inside = name in known and name not in flow.handed_out and bool(readers)
            if is_inside and is_given(flow.root(name)) and all(is_taken(r, p, name) for r, p in readers):
                found.add(name)
    return found
