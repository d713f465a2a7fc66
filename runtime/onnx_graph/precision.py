"""float32 graphs made float16 or INT8: types written into the graph itself, as strongly typed engines want them."""

from typing import Container, Dict, Iterable, List, Mapping, Optional, Set, Tuple

import numpy as np

from ..records import Array
from .onnxfile import Info, Model, Node

_FULL, _HALF = np.dtype(np.float32), np.dtype(np.float16)
_CODES = {_FULL: 1, _HALF: 10}  # onnx.TensorProto.DataType
_MAX = float(np.finfo(np.float16).max)
_LEAST = 2.0**-24  # the smallest float16 above 0, which no scale may be
# Inputs that ONNX takes as float32 only, by position. Quantisation takes float16 from opset 19 on.
_FULL_INPUTS: Dict[str, Tuple[int, ...]] = {"Resize": (1, 2)}
_QUANTISATION: Dict[str, Tuple[int, ...]] = {"QuantizeLinear": (0, 1), "DequantizeLinear": (1,)}


def to_int8(model: Model, ranges: Mapping[str, float], pairs: bool = False) -> Model:
    """A copy of the model whose convolutions compute in INT8 where they read a value named in `ranges`: it, and their
    weights, pass a quantiser. All else, biases and results too, is float32 as before.

    ranges: value -> the magnitude that becomes 127. Symmetric, zero points 0; one scale for a value, one for each
    channel that a convolution gives. Scales are numbers that float16 holds, so that every engine has the same ones.
    pairs: keep weights float32 and quantise them in the graph; else they are stored as int8.
    """
    return _Quantiser(model, ranges, pairs).model()


def to_opset_19(model: Model) -> Model:
    """A copy of an opset 13 model made of operators that bundles are written with: from opset 19 on, quantisers take
    float16."""
    weights = dict(model.weights)
    taken = _names(model)
    nodes: List[Node] = []
    for node in model.nodes:
        attributes, inputs = dict(node.attributes), list(node.inputs)
        if node.op == "ReduceMean" and "axes" in attributes:  # an input from opset 18 on
            inputs.append(_new_name(node.outputs[0] + "_axes", taken))
            weights[inputs[-1]] = np.array(attributes.pop("axes"), np.int64)
        nodes.append(Node(node.op, inputs, node.outputs, attributes, node.domain, node.name))
    opsets = dict(model.opsets, **{"": 19})
    return Model(nodes, weights, model.inputs, model.outputs, opsets, max(9, model.ir_version), model.name)


def to_half(model: Model, float32_values: Container[str] = ()) -> Model:
    """A copy of the model that computes in float16.

    Every float32 weight, constant, input and output becomes float16, but for the graph's inputs and outputs named in
    `float32_values`, which are cast at the border, and for what ONNX demands as float32. Numbers beyond float16's
    range saturate. An operator is taken to give the float type that it is given, as all that we write do.
    """
    return _Halver(model, float32_values).model()


def half_borders(model: Model, float32_values: Container[str] = ()) -> Model:
    """A copy of the model with float16 inputs and outputs but for those named; it computes in float32 as before."""
    taken = _names(model)
    casts: List[Node] = []
    ends: List[Node] = []
    names: Dict[str, str] = {}
    inputs, outputs = list(model.inputs), list(model.outputs)
    for infos in (inputs, outputs):
        for i, info in enumerate(infos):
            if info.dtype == _FULL and info.name not in float32_values:
                infos[i] = info._replace(dtype=_HALF)
    for info in (i for i in inputs if i.dtype == _HALF):
        names[info.name] = _new_name(info.name + "_float32", taken)
        casts.append(_cast_node(info.name, names[info.name], _FULL))
    for info in (i for i in outputs if i.dtype == _HALF and i.name not in names):
        names[info.name] = _new_name(info.name + "_float32", taken)
        ends.append(_cast_node(names[info.name], info.name, _HALF))
    nodes: List[Node] = []
    for node in model.nodes:
        given, made = ([names.get(name, name) for name in ns] for ns in (node.inputs, node.outputs))
        nodes.append(Node(node.op, given, made, node.attributes, node.domain, node.name))
    weights = {names.get(name, name): array for name, array in model.weights.items()}
    return Model(casts + nodes + ends, weights, inputs, outputs, model.opsets, model.ir_version, model.name)


class _Quantiser:
    """One conversion to INT8."""

    def __init__(self, model: Model, ranges: Mapping[str, float], pairs: bool) -> None:
        self._source = model
        self._ranges = ranges
        self._pairs = pairs
        self._nodes: List[Node] = []
        self._weights = dict(model.weights)
        self._taken = _names(model)
        self._found: Dict[str, str] = {}  # value or weight -> the same, quantised and back

    def model(self) -> Model:
        source = self._source
        for node in source.nodes:
            inputs = list(node.inputs)
            if node.op == "Conv" and inputs[0] in self._ranges and inputs[1] in source.weights:
                inputs[:2] = [self._value(inputs[0]), self._kernel(inputs[1])]
            self._nodes.append(Node(node.op, inputs, node.outputs, node.attributes, node.domain, node.name))
        used = {name for node in self._nodes for name in node.inputs} | {info.name for info in source.outputs}
        gone = {name for name in self._found if name not in used}
        weights = {name: array for name, array in self._weights.items() if name not in gone}
        return Model(self._nodes, weights, source.inputs, source.outputs, source.opsets, source.ir_version, source.name)

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
                whole = _new_name(name + "_int8", self._taken)
                rounded = np.rint(kernel / scale.reshape((-1,) + (1,) * (kernel.ndim - 1)))
                self._weights[whole] = np.clip(rounded, -127, 127).astype(np.int8)
            self._found[name] = self._dequantise(whole, steps, name, axis)
        return self._found[name]

    def _steps(self, name: str, scale: Array) -> List[str]:
        """The names of a scale and of its zero points."""
        names = [_new_name(name + end, self._taken) for end in ("_scale", "_zero")]
        self._weights[names[0]] = scale
        self._weights[names[1]] = np.zeros(scale.shape, np.int8)
        return names

    def _quantise(self, name: str, steps: List[str], attributes: Mapping[str, int]) -> str:
        return self._add("QuantizeLinear", [name] + steps, _new_name(name + "_int8", self._taken), attributes)

    def _dequantise(self, name: str, steps: List[str], of: str, attributes: Mapping[str, int]) -> str:
        return self._add("DequantizeLinear", [name] + steps, _new_name(of + "_back", self._taken), attributes)

    def _add(self, op: str, inputs: Iterable[str], output: str, attributes: Mapping[str, int]) -> str:
        self._nodes.append(Node(op, inputs, [output], dict(attributes), name=output))
        return output


class _Halver:
    """One conversion. In the result, values named in `_full` are float32; all others that were are float16."""

    def __init__(self, model: Model, float32_values: Container[str]) -> None:
        self._source = model
        self._kept = float32_values
        self._full_inputs = dict(_FULL_INPUTS)
        if model.opsets.get("", 0) < 19:
            self._full_inputs.update(_QUANTISATION)
        self._nodes: List[Node] = []
        self._full = {info.name for info in model.inputs if self._stays(info)}
        self._outputs = {o.name: _FULL if self._stays(o) else _HALF for o in model.outputs if o.dtype == _FULL}
        self._copies: Dict[Tuple[str, str], str] = {}  # (value, dtype) -> the same value in that other type
        self._taken = _names(model)

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
        return Model(self._nodes, weights, inputs, outputs, source.opsets, source.ir_version, source.name)

    def _stays(self, info: Info) -> bool:
        return info.dtype == _FULL and info.name in self._kept

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
        converted = Node(node.op, inputs, node.outputs, attributes, node.domain, node.name)
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
        new = self._copies[name, dtype.name] = _new_name("%s_%s" % (name, dtype.name), self._taken)
        return new


def _names(model: Model) -> Set[str]:
    """Every name that a value of the model has."""
    names = {info.name for info in model.inputs + model.outputs} | set(model.weights)
    return names.union(*(node.outputs for node in model.nodes))


def _new_name(name: str, taken: Set[str]) -> str:
    """The name, made longer until nothing is called so; it is taken then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _cast_node(name: str, result: str, dtype: "np.dtype[np.generic]") -> Node:
    return Node("Cast", [name], [result], {"to": _CODES[dtype]}, name="cast_" + result)


def _scale(largest: Array) -> Array:
    """What one step of 127 is worth: float32 that float16 holds, rounded up so that `largest` stays in range."""
    exact = np.clip(np.asarray(largest, np.float32) / np.float32(127), _LEAST, _MAX)
    half = exact.astype(_HALF)
    with np.errstate(over="ignore"):
        above = np.nextafter(half, np.array(np.inf, _HALF))
    return np.asarray(np.where(half < exact, above, half), np.float32)


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
    return np.asarray(np.clip(array, -_MAX, _MAX), _HALF)  # old numpy's clip makes a scalar of an array without axes
