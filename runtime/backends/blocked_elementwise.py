"""A graph that ONNX Runtime has optimised, with what its optimiser leaves in the ordinary layout put into blocks.

Beside convolutions and pools it knows sums and products as operators on blocks (NCHWc), but none that has a constant
or a mask in it: such a one gets both of its inputs put out of blocks, and its output in again. A number's place does
not matter to an operator that looks at it alone, so here it reads the blocks as they lie. The graph of a training step
has one behind each convolution; changes of layout were a fifth of its time.
"""

from typing import Dict, List, NamedTuple, Optional, Set

import numpy as np

from ..onnx_graph.joining import pruned
from ..onnx_graph.model import AttributeValue, Model, Node, unused_name

DOMAIN = "com.microsoft.nchwc"
# What looks at one number, or at two in the same place.
_ELEMENTWISE = {"Abs", "Add", "And", "Cast", "Clip", "Greater", "HardSigmoid", "Less", "Mul", "Relu", "Sub"}
_INTERLEAVE = [0, 3, 4, 1, 5, 2]  # the order of the axes (B, s, s', C, H, W) that makes (B, C, H s, W s') of phases


class _Lying(NamedTuple):
    """A value in blocks, and how many channels it has."""

    name: str
    channels: int


def elementwise_in_blocks(model: Model, block: int) -> Model:
    """A copy of what ONNX Runtime saved, which computes the same with fewer changes of layout.

    block: the channels in a block, see `block_size`. Only to be loaded without further optimising.
    """
    pass_ = _Pass(model, block)
    for node in model.nodes:
        pass_.visit(node)
    return pruned(model.replace(pass_.nodes, pass_.weights))


class _Pass:
    """The nodes so far. blocked: ordinary values that lie in blocks too. Those in `pending` are not yet written in the
    ordinary layout, and are when somebody reads them so."""

    def __init__(self, model: Model, block: int) -> None:
        self.nodes: List[Node] = []
        self.weights = dict(model.weights)
        self._block = block
        self._taken = model.value_names()
        self._blocked: Dict[str, _Lying] = {}
        self._pending: Set[str] = set()
        self._same: Dict[str, str] = {}  # values in blocks that are others
        self._single: Set[str] = set()  # values in blocks that have one cell
        self._outputs = {info.name for info in model.outputs}
        self._readers: Dict[str, List[Node]] = {}
        for node in model.nodes:
            for name in node.inputs:
                self._readers.setdefault(name, []).append(node)
        self._done: Set[str] = set()  # outputs of nodes that an earlier one's visit has seen to

    def visit(self, node: Node) -> None:
        """Append a node, or what does its work."""
        if node.outputs[0] in self._done:
            return
        node = node.replace([self._same.get(name, name) for name in node.inputs])
        if node.domain == DOMAIN and node.op == "ReorderInput" and node.inputs[0] in self._blocked:
            self._same[node.outputs[0]] = self._blocked[node.inputs[0]].name
            return
        if node.domain == DOMAIN and node.op.startswith("Global"):
            self._single.add(node.outputs[0])
        if self._leaves_blocks(node):
            self._blocked[node.outputs[0]] = _Lying(node.inputs[0], int(node.attributes["channels"]))  # type: ignore[arg-type]
            self._pending.add(node.outputs[0])
        elif node.domain == "" and self._in_blocks(node):
            pass
        else:
            for name in node.inputs:
                self._write(name)
            self.nodes.append(node)
        for name in node.outputs:
            if name in self._outputs:
                self._write(name)

    def _leaves_blocks(self, node: Node) -> bool:
        """Single cells do not count: what meets them repeats them, which is another thing in blocks."""
        return (
            node.domain == DOMAIN
            and node.op == "ReorderOutput"
            and not node.attributes.get("channels_last")
            and node.inputs[0] not in self._single
        )

    def _write(self, name: str) -> None:
        """See that a value is there in the ordinary layout."""
        if name in self._pending:
            self._pending.remove(name)
            lying = self._blocked[name]
            attributes = {"channels": lying.channels, "channels_last": 0}
            self.nodes.append(Node("ReorderOutput", [lying.name], [name], attributes, domain=DOMAIN))

    def _in_blocks(self, node: Node) -> bool:
        """Append the node as one on blocks, if it can be one."""
        lying = self._blocked.get(node.inputs[0]) if node.inputs else None
        if node.op in _ELEMENTWISE:
            return self._elementwise(node)
        if lying is None:
            return False
        if node.op == "Resize":
            return self._upsampled(node, lying)
        return node.op == "Reshape" and self._interleaved(node, lying)

    def _elementwise(self, node: Node) -> bool:
        found = [self._blocked[name] for name in node.inputs if name in self._blocked]
        others = [self.weights.get(name) for name in node.inputs if name not in self._blocked]
        if len({lying.channels for lying in found}) != 1 or any(w is None or w.size != 1 for w in others):
            return False
        names = [self._blocked[name].name if name in self._blocked else name for name in node.inputs]
        self.nodes.append(node.replace(names, [self._lies(node.outputs[0], found[0].channels)]))
        return True

    def _lies(self, name: str, channels: int) -> str:
        """A name for a value in blocks, of which `name` is the ordinary one."""
        inner = unused_name(name + "/blocks", self._taken)
        self._blocked[name] = _Lying(inner, channels)
        self._pending.add(name)
        return inner

    def _upsampled(self, node: Node, lying: _Lying) -> bool:
        """Cells repeated: ONNX Runtime has an operator for blocks."""
        scales = self.weights.get(node.inputs[2]) if len(node.inputs) == 3 else None
        if scales is None or len(scales) != 4 or any(n != int(n) for n in scales):
            return False
        attributes: Dict[str, AttributeValue] = {"scales": [int(n) for n in scales], "mode": "nearest"}
        output = self._lies(node.outputs[0], lying.channels)
        self.nodes.append(Node("Upsample", [lying.name], [output], attributes, domain=DOMAIN, name=node.name))
        return True

    def _interleaved(self, node: Node, lying: _Lying) -> bool:
        """Phases into their places, a block of channels at a time: (B, s s C, H, W) -> (B, C, s H, s W).

        `node` is the first of three, which split the axes, order them anew, and join them.
        """
        parts = self.weights.get(node.inputs[1])
        moved = self._only_reader(node)
        joined = None if moved is None else self._only_reader(moved)
        if parts is None or moved is None or joined is None or moved.attributes.get("perm") != _INTERLEAVE:
            return False
        whole = self.weights.get(joined.inputs[1]) if joined.op == "Reshape" else None
        channels = lying.channels // int(parts[1] * parts[2])
        if whole is None or len(parts) != 6 or parts[3] != channels or channels % self._block:
            return False
        blocks = [-1, *parts[1:3].tolist(), channels // self._block, *parts[4:].tolist(), self._block]
        inner = [unused_name(name, self._taken) for name in (node.outputs[0], moved.outputs[0])]
        shape = unused_name(node.inputs[1] + "/blocks", self._taken)
        self.weights[shape] = np.array(blocks, np.int64)
        self.nodes += [
            node.replace([lying.name, shape], inner[:1]),
            moved.replace(inner[:1], inner[1:], {"perm": _INTERLEAVE + [6]}),
            joined.replace([inner[1], joined.inputs[1]], [self._lies(joined.outputs[0], channels)]),
        ]
        self._done.update((moved.outputs[0], joined.outputs[0]))
        return True

    def _only_reader(self, node: Node) -> Optional[Node]:
        readers = self._readers.get(node.outputs[0], [])
        return readers[0] if len(readers) == 1 and node.outputs[0] not in self._outputs else None
