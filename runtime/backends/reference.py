"""The bundle's semantics in numpy: what every other backend is checked against, and what runs where none is installed.

It is slow, and meant to be read: it fuses and reorders nothing, and no run reuses what another one computed.
"""

from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.plan import BATCH, DOMAIN, IMAGE
from ..errors import BackendError
from ..onnx_graph.model import Model, Node
from ..onnx_graph.subgraphs import cpu_subgraph
from ..records import Array, Segment
from ..schedule.layout import Layout, Subgraph
from .interface import Backend, ExecutionContext
from .numpy_ops import OPERATORS, Operator, Unsupported


class ReferenceBackend(Backend):
    """Any number of images at a time, on one thread of the caller."""

    name = "reference"

    def __init__(self, precision: str = "fp32") -> None:
        """precision: fp32, fp16 or int8."""
        self.precision = precision
        self._layout: Optional[Layout] = None
        self._programs: Dict[Segment, Program] = {}

    def open(self, layout: Layout, bundle: Bundle) -> None:
        for subgraph in layout.subgraphs:
            if subgraph.segment not in self._programs:  # steps may share one
                where = "%s: subgraph %s" % (bundle.path, subgraph.segment.name)
                self._programs[subgraph.segment] = Program(cpu_subgraph(subgraph, bundle, self.precision), where)
        self._layout = layout

    def context(self, batch: int) -> "ReferenceContext":
        if self._layout is None:
            raise BackendError("this backend is closed, or was never opened")
        return ReferenceContext(self._layout, self._programs, batch)

    def another(self) -> "ReferenceBackend":
        return ReferenceBackend(self.precision)

    def close(self) -> None:
        self._layout = None
        self._programs = {}


class ReferenceContext(ExecutionContext):
    """One array for each value, which is made when the value is first written."""

    def __init__(self, layout: Layout, programs: Dict[Segment, "Program"], batch: int) -> None:
        self._batched = {name for name, shape in layout.values.items() if shape[:1] == (BATCH,)}
        self._programs = programs
        self._batch = batch
        self._values: Dict[str, Array] = {}

    def bind(self, subgraph: Subgraph, weights: Dict[str, Array]) -> Callable[[], None]:
        program = self._programs[subgraph.segment]

        def call() -> None:
            for name, result in zip(subgraph.outputs, program.run(self._inputs(subgraph, weights, None))):
                self._write(name, result, None)

        return call

    def bind_rows(self, subgraph: Subgraph, weights: Dict[str, Array]) -> Callable[[Array], None]:
        program = self._programs[subgraph.segment]

        def call(rows: Array) -> None:
            for name, result in zip(subgraph.outputs, program.run(self._inputs(subgraph, weights, rows))):
                self._write(name, result, rows)

        return call

    def _inputs(self, subgraph: Subgraph, weights: Dict[str, Array], rows: Optional[Array]) -> List[Array]:
        inputs: List[Array] = []
        for name in subgraph.inputs:
            if name.startswith(DOMAIN):
                inputs.append(weights[name[len(DOMAIN) :]])
            else:
                value = self._values[name]
                inputs.append(value if rows is None or name not in self._batched else value[rows])
        return inputs

    def _write(self, name: str, result: Array, rows: Optional[Array]) -> None:
        """Write to the rows given, None for all. A result is copied, since it may be a view of an input."""
        if rows is None or name not in self._batched:
            self._values[name] = result.copy()
            return
        shape = (self._batch,) + result.shape[1:]
        if name not in self._values or self._values[name].shape != shape:
            self._values[name] = np.zeros(shape, result.dtype)
        self._values[name][rows] = result

    def gate(self, value: str) -> Callable[[], Array]:
        return lambda: self._values[value]

    def begin(self, images: Array) -> None:
        self._values[IMAGE] = images

    def read(self, value: str) -> Array:
        return np.array(self._values[value])

    def write(self, value: str, array: Array) -> None:
        self._values[value] = np.array(array)

    def close(self) -> None:
        self._values = {}


# What operators raise for inputs that they cannot take.
_ERRORS = (Unsupported, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Instruction(NamedTuple):
    """A node and its operator. last_read: the values that no later node reads."""

    operator: Operator
    node: Node
    last_read: Tuple[str, ...]


class Program:
    """A graph that numpy can run; any number of threads may run it at once."""

    def __init__(self, model: Model, where: str) -> None:
        """where: what errors begin with. Raises BackendError for a graph that numpy cannot run."""
        self._where = where
        self._weights = model.weights
        self._inputs = [info.name for info in model.inputs]
        self._outputs = [info.name for info in model.outputs]
        self._instructions: List[_Instruction] = []
        known = set(self._inputs) | set(model.weights) | {""}
        for names, written in [(node.inputs, node.outputs) for node in model.nodes] + [(self._outputs, [])]:
            if not known.issuperset(names):
                raise BackendError("%s: reads %s before it is written" % (where, sorted(set(names) - known)[0]))
            known.update(written)
        alive = set(self._outputs) | set(model.weights)
        for node in reversed(model.nodes):
            used = set(node.inputs + node.outputs) - {""}
            self._instructions.append(_Instruction(self._operator(node), node, tuple(sorted(used - alive))))
            alive |= used
        self._instructions.reverse()

    def _operator(self, node: Node) -> Operator:
        operator = OPERATORS.get(node.op)
        if operator is None or node.domain:
            raise BackendError("%s: the reference backend has no operator %s" % (self._where, _title(node)))
        unknown = [name for name in node.attributes if name not in operator.attributes]
        if unknown or any(node.outputs[1:]):
            what = "attribute %s" % unknown[0] if unknown else "a second output"
            raise BackendError("%s: the reference backend's %s does not know %s" % (self._where, _title(node), what))
        return operator

    def bound(self, given: Mapping[str, Array]) -> Callable[[Sequence[Array]], List[Array]]:
        """A call that does what `run` does on the other inputs, in the graph's order, where those in `given` are known.

        What hangs on these alone is computed once, and each call looks up no name.
        """
        known: Dict[str, Any] = dict(self._weights)
        known.update(given)
        known[""] = None
        varying = [name for name in self._inputs if name not in given]
        places = {name: i for i, name in enumerate(varying)}
        slots: List[Any] = [None] * len(varying)

        def place(name: str) -> int:
            if name not in places:
                places[name] = len(slots)
                slots.append(known.get(name))
            return places[name]

        steps: List[Tuple[Callable[..., Array], Dict[str, Any], Tuple[int, ...], int]] = []
        where = self._where
        with np.errstate(all="ignore"):
            for operator, node, _ in self._instructions:
                if all(name in known for name in node.inputs):
                    known[node.outputs[0]] = _computed(where, node, operator.run, [known[n] for n in node.inputs])
                else:
                    reads = tuple(place(name) for name in node.inputs)
                    steps.append((operator.run, node.attributes, reads, place(node.outputs[0])))
        results = [place(name) for name in self._outputs]
        count = len(varying)

        def call(inputs: Sequence[Array]) -> List[Array]:
            values = slots[:]
            values[:count] = inputs
            try:
                with np.errstate(all="ignore"):
                    for run, attributes, reads, write in steps:
                        values[write] = run(attributes, *[values[i] for i in reads])
            except _ERRORS as error:
                raise BackendError("%s failed: %s" % (where, error))
            return [values[i] for i in results]

        return call

    def run(self, inputs: Sequence[Array]) -> List[Array]:
        """The graph's outputs for its inputs, both in the graph's order. The outputs may be views of inputs."""
        values: Dict[str, Optional[Array]] = dict(self._weights)
        values[""] = None
        values.update(zip(self._inputs, inputs))
        for operator, node, last_read in self._instructions:
            with np.errstate(all="ignore"):
                values[node.outputs[0]] = _computed(self._where, node, operator.run, [values[n] for n in node.inputs])
            for name in last_read:
                del values[name]
        return [np.asarray(values[name]) for name in self._outputs]


def _computed(where: str, node: Node, run: Callable[..., Array], inputs: Sequence[Optional[Array]]) -> Array:
    try:
        return run(node.attributes, *inputs)
    except _ERRORS as error:
        raise BackendError("%s: %s failed: %s" % (where, _title(node), error))


def _title(node: Node) -> str:
    return "%s.%s" % (node.domain, node.op) if node.domain else node.op
