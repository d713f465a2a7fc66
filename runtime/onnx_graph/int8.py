"""float32 graphs whose convolutions are quantised: INT8 is written into the graph itself."""

from typing import Dict, Iterable, List, Mapping, Optional

import numpy as np

from ..records import Array
from .int8_places import Flow, only_int8
from .model import Model, Node, unused_name

_MOST = float(np.finfo(np.float16).max)
_LEAST = 2.0**-14  # the smallest normal float16: engines multiply by 1 / scale, and that of less may overflow


def to_int8(
    model: Model, convolutions: Mapping[str, float], others: Optional[Mapping[str, float]] = None, pairs: bool = False
) -> Model:
    """A copy of the model whose convolutions compute in INT8 where they read a value named in `convolutions`.

    That value and the convolutions' weights pass a quantiser. So does what is added to a convolution's result, where
    the sum is read as INT8 alone, and so do both inputs of such a sum without a convolution, and averages of such
    values; int8_places.py says why. All else, biases and results too, is float32 as before.

    convolutions: value -> the magnitude that becomes 127. others: the same of what sums add, of averages, and of what
    convolutions read elsewhere. Symmetric, zero points 0; one scale for a value, one for each channel that a
    convolution gives. Scales are numbers that float16 holds, so that every engine has the same ones. pairs: keep
    weights float32 and quantise them in the graph; else they are stored as int8.
    """
    return _Quantiser(model, convolutions, others or {}, pairs).model()


class _Quantiser:
    """One conversion to INT8."""

    def __init__(
        self, model: Model, convolutions: Mapping[str, float], others: Mapping[str, float], pairs: bool
    ) -> None:
        self._source = model
        self._flow = Flow(model)
        self._convolutions = convolutions
        self._largest = dict(others)
        self._largest.update(convolutions)
        self._whole = only_int8(self._flow, convolutions, self._largest)
        self._pairs = pairs
        self._nodes: List[Node] = []
        self._weights = dict(model.weights)
        self._taken = model.value_names()
        self._found: Dict[str, str] = {}  # value or weight -> the same, quantised and back

    def model(self) -> Model:
        source = self._source
        for node in source.nodes:
            inputs = list(node.inputs)
            for position in self._rounded(node):
                inputs[position] = self._value(inputs[position])
            if self._is_quantised(node):
                inputs[1] = self._kernel(inputs[1])
            self._nodes.append(node.replace(inputs))
        used = {name for node in self._nodes for name in node.inputs} | {info.name for info in source.outputs}
        gone = {name for name in self._found if name not in used}
        return source.replace(self._nodes, {name: w for name, w in self._weights.items() if name not in gone})

    def _is_quantised(self, node: Node) -> bool:
        return self._flow.is_convolution(node) and node.inputs[0] in self._convolutions

    def _is_whole_sum(self, node: Node) -> bool:
        return self._flow.is_sum(node) and self._flow.end(node) in self._whole

    def _rounded(self, node: Node) -> List[int]:
        """The positions of the inputs that pass a quantiser."""
        if self._is_quantised(node):
            return [0]
        if self._is_whole_sum(node):
            residuals = self._flow.residuals(node)
            return [position for position, name in enumerate(node.inputs) if name in residuals]
        if node.op == "Resize" and self._is_repeated_residual(node):
            return [0]
        return [position for position, name in enumerate(node.inputs) if name in self._whole or self._is_average(name)]

    def _is_repeated_residual(self, node: Node) -> bool:
        """Is its result one of what an INT8 sum adds? What it repeats is rounded before it, where it is small."""
        name = node.outputs[0]
        if self._flow.source(name) == name:
            return False
        reader, _ = self._flow.readers[name][0]
        return self._is_whole_sum(reader) and name in self._flow.residuals(reader)

    def _is_average(self, name: str) -> bool:
        """Is it an average of INT8, which must be INT8 itself?"""
        writer = self._flow.writers.get(name)
        return writer is not None and writer.op == "AveragePool" and writer.inputs[0] in self._whole

    def _value(self, name: str) -> str:
        if name not in self._found:
            largest = self._largest[self._flow.source(name)]
            steps = self._steps(name, _scale(np.array(largest, np.float32)))
            self._found[name] = self._dequantise(self._quantise(name, steps, {}), steps, name, {})
        return self._found[name]

    def _kernel(self, name: str) -> str:
        """(K, C / group, kh, kw), a scale for each k."""
        if name not in self._found:
            kernel = self._source.weights[name]
            scale = _scale(np.abs(kernel).reshape(kernel.shape[0], -1).max(axis=1))
            steps, axis = self._steps(name, scale), {"axis": 0}
            if self._pairs:
                whole = self._quantise(name, steps, axis)
            else:
                whole = unused_name(name + "_int8", self._taken)
                rounded = np.rint(kernel / scale.reshape((-1,) + (1,) * (kernel.ndim - 1)))
                self._weights[whole] = np.clip(rounded, -127, 127).astype(np.int8)
            self._found[name] = self._dequantise(whole, steps, name, axis)
        return self._found[name]

    def _steps(self, name: str, scale: Array) -> List[str]:
        """The names of a scale and of its zero points."""
        names = [unused_name(name + end, self._taken) for end in ("_scale", "_zero")]
        self._weights[names[0]] = scale
        self._weights[names[1]] = np.zeros(scale.shape, np.int8)
        return names

    def _quantise(self, name: str, steps: List[str], attributes: Mapping[str, int]) -> str:
        return self._add("QuantizeLinear", [name] + steps, unused_name(name + "_int8", self._taken), attributes)

    def _dequantise(self, name: str, steps: List[str], of: str, attributes: Mapping[str, int]) -> str:
        return self._add("DequantizeLinear", [name] + steps, unused_name(of + "_back", self._taken), attributes)

    def _add(self, op: str, inputs: Iterable[str], output: str, attributes: Mapping[str, int]) -> str:
        self._nodes.append(Node(op, inputs, [output], dict(attributes), name=output))
        return output


def _scale(largest: Array) -> Array:
    """What one step of 127 is worth: float32 that float16 holds, rounded up so that `largest` stays in range.

    1 where all is 0: any number will do there, and this one has a reciprocal that every engine can hold.
    """
    exact = np.clip(np.asarray(largest, np.float32) / np.float32(127), _LEAST, _MOST)
    half = exact.astype(np.float16)
    with np.errstate(over="ignore"):
        above = np.nextafter(half, np.array(np.inf, np.float16))
    scale = np.where(half < exact, above, half)
    return np.asarray(np.where(np.asarray(largest) > 0, scale, 1), np.float32)
