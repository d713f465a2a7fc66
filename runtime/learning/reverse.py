"""Reverse-mode differentiation of a graph: walked backwards, a rule for each node, only where a gradient is needed.

Griewank, Walther: Evaluating Derivatives (2008), chapter 3. A node's rule is applied when everything that reads its
output has been visited, so each value's gradient is complete by then.
"""

from typing import Dict, List, Mapping, Sequence, Set

from ..errors import BundleError
from ..onnx_graph.model import Node
from .gradients import RULES
from .writing import GraphWriter


def add_gradients(out: GraphWriter, seeds: Mapping[str, str], wanted: Sequence[str]) -> Dict[str, str]:
    """Append the backward pass to a graph; for each of the values `wanted`, the name of its gradient.

    seeds: for some values, the name of a gradient that reaches them from outside of the graph.
    Raises BundleError if something on the way has no gradient, and where a wanted value has none.
    """
    forward = list(out.nodes)
    moving = _moving(forward, wanted)
    parts: Dict[str, str] = {}  # gradients so far, by value

    def add(value: str, gradient: str) -> None:
        if value in parts:
            gradient = out.node("Add", [parts[value], gradient], "d/" + value)
        parts[value] = gradient

    for value, gradient in seeds.items():
        add(value, gradient)
    for node in reversed(forward):
        whole = parts.pop(node.outputs[0], None)
        places = [i for i, name in enumerate(node.inputs) if name in moving]
        if whole is None or not places:
            continue
        rule = RULES.get(node.op)
        if rule is None:
            raise BundleError(
                "operator %s has no gradient (node %s): learn with `da3 train`" % (node.op, node.outputs[0])
            )
        for place in places:
            add(node.inputs[place], rule(out, node, place, whole))
    lacking = [name for name in wanted if name not in parts]
    if lacking:
        raise BundleError("the loss does not depend on %s: export the bundle again" % lacking[0])
    return {name: parts[name] for name in wanted}


def _moving(nodes: List[Node], wanted: Sequence[str]) -> Set[str]:
    """The values that change with those that are wanted."""
    moving = set(wanted)
    for node in nodes:
        if not moving.isdisjoint(node.inputs):
            moving.update(node.outputs)
    return moving
