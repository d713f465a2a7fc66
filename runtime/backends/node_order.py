"""The nodes of an optimised graph in the order that its author meant them to run in.

An optimiser fuses nodes and writes them down in an order of its own, in which masks are made long after what they are
made of, say, which has to be kept till then. ONNX Runtime runs nodes as they stand in the file if it is told to
(`ExecutionOrder.PRIORITY_BASED`) and optimises nothing.
"""

import heapq
from typing import Dict, List, Optional, Tuple

from ..onnx_graph.model import Model, Node

_IN_BLOCKS = "_nchwc"  # ONNX Runtime puts it behind the name of a node that computes in blocks


def in_order_of(model: Model, original: Model) -> Model:
    """A copy of what was made of `original`, whose nodes stand where those were that they do the work of.

    A node is recognised by its name or by what it writes; one that is new comes right before its first reader.
    """
    place: Dict[str, int] = {}
    for number, node in enumerate(original.nodes):
        for name in [node.name] + node.outputs:
            place[name] = number
    place.pop("", None)
    writers = {name: number for number, node in enumerate(model.nodes) for name in node.outputs}
    readers: List[List[int]] = [[] for _ in model.nodes]
    missing = [0] * len(model.nodes)
    for number, node in enumerate(model.nodes):
        for source in {writers[name] for name in node.inputs if name in writers}:
            readers[source].append(number)
            missing[number] += 1
    keys = [0.0] * len(model.nodes)
    for number in reversed(range(len(model.nodes))):  # readers come later than what they read
        known = _known(model.nodes[number], place)
        keys[number] = min((keys[reader] for reader in readers[number]), default=0.0) if known is None else known
    ready: List[Tuple[float, int]] = [(keys[number], number) for number, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    nodes: List[Node] = []
    while ready:
        number = heapq.heappop(ready)[1]
        nodes.append(model.nodes[number])
        for reader in readers[number]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, (keys[reader], reader))
    return model.replace(nodes)


def _known(node: Node, place: Dict[str, int]) -> Optional[float]:
    called = node.name[: -len(_IN_BLOCKS)] if node.name.endswith(_IN_BLOCKS) else node.name
    found = [place[name] for name in node.outputs + [called] if name in place]
    return float(found[0]) if found else None
