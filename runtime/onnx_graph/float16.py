"""float32 graphs made float16: types are written into the graph itself, as strongly typed engines want them."""

from typing import Container, Dict, List, Optional, Tuple

import numpy as np

from ..records import Array
from .model import Info, Model, Node, unused_name

_FULL, _HALF = np.dtype(np.float32), np.dtype(np.float16)
_CODES = {_FULL: 1, _HALF: 10}  # onnx.TensorProto.DataType
_MOST = float(np.finfo(np.float16).max)
# Inputs that ONNX takes as float32 only, by position. Quantisation takes float16 from opset 19 on.
_FULL_INPUTS: Dict[str, Tuple[int, ...]] = {"Resize": (1, 2)}
_QUANTISATION: Dict[str, Tuple[int, ...]] = {"QuantizeLinear": (0, 1), "DequantizeLinear": (1,)}


def to_half(model: Model, float32_values: Container[str] = ()) -> Model:
    """A copy of the model that computes in float16.

    Every float32 weight, constant, input and output becomes float16, but for the graph's inputs and outputs named in
    `float32_values`, which are cast at the border, and for what ONNX demands as float32. Numbers beyond float16's
    range saturate. An operator is taken to give the float type that it is given, as all that we write do.
    """
    return _Halver(model, float32_values).model()


class _Halver:
    """One conversion. In the result, values named in `_full` are float32; all others that were are float16."""

    def __init__(self, model: Model, float32_values: Container[str]) -> None:
        self._source = model
        self._float32_values = float32_values
        self._full_inputs = dict(_FULL_INPUTS)
        if model.opsets.get("", 0) < 19:
            self._full_inputs.update(_QUANTISATION)
        self._nodes: List[Node] = []
        self._full = {info.name for info in model.inputs if self._stays(info)}
        self._outputs = {o.name: _FULL if self._stays(o) else _HALF for o in model.outputs if o.dtype == _FULL}
        self._copies: Dict[Tuple[str, str], str] = {}  # (value, dtype) -> the same value in that other type
        self._taken = model.value_names()

    def model(self) -> Model:
        source = self._source
        weights = dict(source.weights)
        nodes: List[Node] = []
        for node in source.nodes:
            constant = _constant(node)
            if constant is None:
                nodes.append(node)
            else:  # as a weight, whoever wants float32 reads it without a cast
                weights[node.outputs[0]] = constant
        weights = self._convert_weights(weights, nodes)
        for node in nodes:
            self._convert(node)
        inputs, outputs = ([self._info(info) for info in infos] for infos in (source.inputs, source.outputs))
        return source.replace(self._nodes, weights, inputs, outputs)

    def _stays(self, info: Info) -> bool:
        return info.dtype == _FULL and info.name in self._float32_values

    def _info(self, info: Info) -> Info:
        return info._replace(dtype=_HALF) if info.dtype == _FULL and not self._stays(info) else info

    def _convert_weights(self, weights: Dict[str, Array], nodes: List[Node]) -> Dict[str, Array]:
        """float32 weights become float16, or both where both are read."""
        full = {info.name for info in self._source.outputs if self._stays(info)}
        half = {info.name for info in self._source.outputs if not self._stays(info)}
        for node in nodes:
            for position, name in enumerate(node.inputs):
                (full if position in self._full_inputs.get(node.op, ()) else half).add(name)
        result: Dict[str, Array] = {}
        for name, array in weights.items():
            if array.dtype != _FULL:
                result[name] = array
                continue
            if name in full:
                self._full.add(name)
                result[name] = array
            if name in half:
                result[self._copy(name, _HALF) if name in full else name] = _halved(array)
        return result

    def _convert(self, node: Node) -> None:
        attributes = dict(node.attributes)
        inputs = list(node.inputs)
        if node.op == "Cast":
            if attributes.get("to") == _CODES[_FULL]:
                attributes["to"] = _CODES[_HALF]
        else:
            for position, name in enumerate(inputs):
                if name and position in self._full_inputs.get(node.op, ()):
                    inputs[position] = name if name in self._full else self._cast(name, _FULL)
                elif name in self._full:
                    inputs[position] = self._cast(name, _HALF)
        if node.op == "ConstantOfShape":
            value = attributes.get("value", np.zeros(1, _FULL))
            if isinstance(value, np.ndarray) and value.dtype == _FULL:
                attributes["value"] = _halved(value)
        converted = node.replace(inputs, attributes=attributes)
        self._nodes.append(converted)
        gives = _FULL if node.op == "DequantizeLinear" and node.op in self._full_inputs else _HALF
        for position, name in enumerate(node.outputs):
            wanted = self._outputs.get(name, gives)
            if wanted == _FULL:
                self._full.add(name)
            if wanted != gives:
                inner = converted.outputs[position] = self._copy(name, gives)
                self._add_cast(inner, name, wanted)

    def _cast(self, name: str, dtype: "np.dtype[np.generic]") -> str:
        """The name of the value in another type, cast when first asked for."""
        found = self._copies.get((name, dtype.name))
        if found is None:
            found = self._copy(name, dtype)
            self._add_cast(name, found, dtype)
        return found

    def _add_cast(self, name: str, result: str, dtype: "np.dtype[np.generic]") -> None:
        self._nodes.append(_cast_node(name, result, dtype))

    def _copy(self, name: str, dtype: "np.dtype[np.generic]") -> str:
        """A new name for the value in another type."""
        new = self._copies[name, dtype.name] = unused_name("%s_%s" % (name, dtype.name), self._taken)
        return new


def _cast_node(name: str, result: str, dtype: "np.dtype[np.generic]") -> Node:
    return Node("Cast", [name], [result], {"to": _CODES[dtype]}, name="cast_" + result)


def _constant(node: Node) -> Optional[Array]:
    """The numbers of a Constant, None where they are not float32 anyway."""
    if node.op == "Constant":
        for name, value in node.attributes.items():
            if isinstance(value, np.ndarray):
                return value
            if name in ("value_float", "value_floats"):
                return np.array(value, np.float32)
    return None


def _halved(array: Array) -> Array:
    """float32 -> float16, saturated; NaN stays."""
    return np.asarray(np.clip(array, -_MOST, _MOST), _HALF)  # old numpy's clip makes a scalar of an array without axes
