"""An ONNX graph as the runtime holds it: nodes, weights, inputs, outputs and opsets."""

from typing import Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple, Union

import numpy as np

from ..records import Array

AttributeValue = Union[int, float, str, bytes, List[int], List[float], List[str], Array]

# onnx.TensorProto.DataType -> numpy, as the bytes lie in raw_data
DTYPES = {
    1: "<f4",
    2: "|u1",
    3: "|i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "|b1",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}


class AttributeType:
    """onnx.AttributeProto.AttributeType, as far as plain graphs need it."""

    FLOAT = 1
    INT = 2
    STRING = 3
    TENSOR = 4
    FLOATS = 6
    INTS = 7
    STRINGS = 8


class Node:
    """One operator call. An omitted input or output is the empty name. attributes: int, float, str (bytes where it
    is not UTF-8), a list of ints, floats or strs, or an array."""

    def __init__(
        self,
        op: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: Optional[Mapping[str, AttributeValue]] = None,
        *,
        domain: str = "",
        name: str = "",
    ) -> None:
        self.op = op
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.attributes = dict(attributes or {})
        self.domain = domain
        self.name = name

    def replace(
        self,
        inputs: Optional[Iterable[str]] = None,
        outputs: Optional[Iterable[str]] = None,
        attributes: Optional[Mapping[str, AttributeValue]] = None,
        name: Optional[str] = None,
    ) -> "Node":
        """A copy with what is given in the place of its own."""
        return Node(
            self.op,
            self.inputs if inputs is None else inputs,
            self.outputs if outputs is None else outputs,
            self.attributes if attributes is None else attributes,
            domain=self.domain,
            name=self.name if name is None else name,
        )

    def __repr__(self) -> str:
        return "Node(%r, %r, %r, %r)" % (self.op, self.inputs, self.outputs, self.attributes)


class Info(NamedTuple):
    """A graph's input or output. A shape entry is an integer, the name of a free dimension, or None."""

    name: str
    dtype: "np.dtype[np.generic]"
    shape: Tuple[Union[int, str, None], ...]


class Model:
    """One graph. nodes: in an order that can be run. weights: the initialisers, in the file's order."""

    def __init__(
        self,
        nodes: Iterable[Node],
        weights: Mapping[str, Array],
        inputs: Iterable[Info],
        outputs: Iterable[Info],
        opsets: Mapping[str, int],
        *,
        ir_version: int = 7,
        name: str = "graph",
    ) -> None:
        self.nodes = list(nodes)
        self.weights = dict(weights)
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.opsets = dict(opsets)
        self.ir_version = ir_version
        self.name = name

    def replace(
        self,
        nodes: Optional[Iterable[Node]] = None,
        weights: Optional[Mapping[str, Array]] = None,
        inputs: Optional[Iterable[Info]] = None,
        outputs: Optional[Iterable[Info]] = None,
    ) -> "Model":
        """A copy with what is given in the place of its own. It shares nodes and arrays with the source, no list."""
        return Model(
            self.nodes if nodes is None else nodes,
            self.weights if weights is None else weights,
            self.inputs if inputs is None else inputs,
            self.outputs if outputs is None else outputs,
            self.opsets,
            ir_version=self.ir_version,
            name=self.name,
        )

    def value_names(self) -> Set[str]:
        """Every name that a value of the graph has."""
        names = {info.name for info in self.inputs + self.outputs} | set(self.weights)
        return names.union(*(node.outputs for node in self.nodes))


def unused_name(name: str, taken: Set[str]) -> str:
    """The name, made longer until nothing in `taken` is called so; it is added there."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
