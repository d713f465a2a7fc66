"""float32 graphs whose convolutions are quantised: INT8 is written into the graph itself."""

from typing import Dict, Iterable, List, Mapping

import numpy as np

from ..records import Array
from .model import Model, Node, unused_name

_MOST = float(np.finfo(np.float16).max)
_LEAST = 2.0**-24  # the smallest float16 above 0, which no scale may be


def to_int8(model: Model, ranges: Mapping[str, float], pairs: bool = False) -> Model:
    """A copy of the model whose convolutions compute in INT8 where they read a value named in `ranges`.

    That value and the convolutions' weights pass a quantiser. All else, biases and results too, is float32 as before.

    ranges: value -> the magnitude that becomes 127. Symmetric, zero points 0; one scale for a value, one for each
    channel that a convolution gives. Scales are numbers that float16 holds, so that every engine has the same ones.
    pairs: keep weights float32 and quantise them in the graph; else they are stored as int8.
    """
    return _Quantiser(model, ranges, pairs).model()


class _Quantiser:
    """One conversion to INT8."""

    def __init__(self, model: Model, ranges: Mapping[str, float], pairs: bool) -> None:
        self._source = model
        self._ranges = ranges
        self._pairs = pairs
        self._nodes: List[Node] = []
        self._weights = dict(model.weights)
        self._taken = model.value_names()
        self._found: Dict[str, str] = {}  # value or weight -> the same, quantised and back

    def model(self) -> Model:
        source = self._source
        for node in source.nodes:
            inputs = list(node.inputs)
            if node.op == "Conv" and inputs[0] in self._ranges and inputs[1] in source.weights:
                inputs[:2] = [self._value(inputs[0]), self._kernel(inputs[1])]
            self._nodes.append(node.replace(inputs))
        used = {name for node in self._nodes for name in node.inputs} | {info.name for info in source.outputs}
        gone = {name for name in self._found if name not in used}
        return source.replace(self._nodes, {name: w for name, w in self._weights.items() if name not in gone})

    def _value(self, name: str) -> str:
        if name not in self._found:
            steps = self._steps(name, _scale(np.array(self._ranges[name], np.float32)))
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
    """What one step of 127 is worth: float32 that float16 holds, rounded up so that `largest` stays in range."""
    exact = np.clip(np.asarray(largest, np.float32) / np.float32(127), _LEAST, _MOST)
    half = exact.astype(np.float16)
    with np.errstate(over="ignore"):
        above = np.nextafter(half, np.array(np.inf, np.float16))
    return np.asarray(np.where(half < exact, above, half), np.float32)
