"""What TensorRT's ONNX parser refuses, as far as this project's graphs come near it.

From the importers of onnx/onnx-tensorrt at 8.2-GA, 8.5-GA, 8.6-GA and 10.1-GA (the newest published), and their
docs/operators.md: which operators there are, of which types, and what each asks of its inputs. An operator or type that
is not known to work is refused.
"""

from typing import NamedTuple

import numpy as np
from onnx import TensorProto, checker, numpy_helper, shape_inference

TENSOR_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.INT32: "INT32",
    TensorProto.BOOL: "BOOL",
}
TYPE_NAMES = {**TENSOR_TYPES, TensorProto.BFLOAT16: "BF16"}
WEIGHT_TYPES = {*TENSOR_TYPES, TensorProto.INT64}
# (operator, position) -> the input must be known when the network is parsed.
CONSTANT_INPUTS = {
    ("Unsqueeze", 1), ("Squeeze", 1), ("Conv", 2), ("Clip", 1), ("Clip", 2), ("Resize", 2), ("ReduceSum", 1),
    ("Slice", 3),
    ("QuantizeLinear", 1), ("QuantizeLinear", 2), ("DequantizeLinear", 1), ("DequantizeLinear", 2),
}  # fmt: skip
# Operators of which more inputs than the first have the type that the tables are about; None: all.
TYPED_INPUTS = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "MatMul", "Gemm"), 2),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), 2),
    **dict.fromkeys(("Concat", "Min", "Max", "Sum"), None),
}
UNTYPED = ("Range", "Where", "OneHot")  # whose first input is no data
RESIZE = {
    "mode": ("nearest", "linear"),
    "nearest_mode": ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
    "coordinate_transformation_mode": (
        "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
    ),
}  # fmt: skip


class Refusal(NamedTuple):
    code: str
    node: int
    name: str
    operator: str
    text: str


def refusals(model, api):
    """Every reason to refuse the model, in the order of its nodes."""
    found = []
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        return [Refusal("INVALID_GRAPH", -1, "", "", str(error).split("\n")[0])]
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset > api.opset:
        text = f"opset {opset}: TensorRT {api.release} takes operators up to opset {api.opset}"
        found.append(Refusal("UNSUPPORTED_GRAPH", -1, "", "", text))
    weights = {w.name: w for w in model.graph.initializer}
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type not in TENSOR_TYPES:
            text = f"Failed to convert ONNX date type to TensorRT data type: {value.name}"
            found.append(Refusal("UNSUPPORTED_NODE", -1, value.name, "", text))
    for weight in weights.values():
        if weight.data_type not in WEIGHT_TYPES:
            text = f"unsupported type {TensorProto.DataType.Name(weight.data_type)} of weights {weight.name}"
            found.append(Refusal("UNSUPPORTED_NODE", -1, weight.name, "", text))
        elif weight.data_type == TensorProto.INT64 and api.number < (10,) and _exceeds_int32(weight):
            found.append(Refusal("UNSUPPORTED_NODE", -1, weight.name, "", f"{weight.name} exceeds INT32"))
    constants = dict(weights)
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = node.attribute[0].t
    types = _types(model, weights, api)
    quantised: set[str] = set()  # constants that went through quantisers: a convolution takes them as its kernel
    for number, node in enumerate(model.graph.node):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in {*constants, *quantised}:
            quantised.add(node.output[0])
        for code, text in (*_refuse_node(node, constants, quantised, api), *_refuse_types(node, types, api)):
            found.append(Refusal(code, number, node.name, node.op_type, text))
    return found


def _refuse_node(node, constants, quantised, api):
    operator = node.op_type
    if node.domain not in ("", "ai.onnx") or operator not in api.operators:
        yield "UNSUPPORTED_NODE", f"Plugin not found: no importer registered for op: {operator}"
        return
    for position, name in enumerate(node.input):
        if (operator, position) in CONSTANT_INPUTS and name and name not in constants:
            yield "UNSUPPORTED_NODE", f"input {position} of {operator} must be an initializer"
    if operator == "Conv" and node.input[1] not in {*constants, *quantised} and api.number < (8, 5):
        yield "UNSUPPORTED_NODE", "a convolution whose kernel is not constant is not relied on before 8.5"
    if operator == "Clip" and api.number < (8, 5):
        for name in node.input[1:]:
            if name and constants[name].data_type == TensorProto.FLOAT16:
                yield "INVALID_NODE", "the Clip importer of 8.2 reads float16 bounds as float32: wrong numbers"
    if operator in ("QuantizeLinear", "DequantizeLinear"):
        yield from _refuse_quantisation(node, constants, api)
    if operator == "MaxPool" and len(node.output) > 1:
        yield "UNSUPPORTED_NODE", "TensorRT does not support the indices output in MaxPool!"
    if operator == "Resize":
        for attribute in node.attribute:
            known = RESIZE.get(attribute.name)
            if known is not None and attribute.s.decode() not in known:
                yield "UNSUPPORTED_NODE", f"Resize's {attribute.name} {attribute.s.decode()} is not supported"


def _types(model, weights, api):
    """The type that TensorRT gives each value, as far as ONNX knows it. Before 10, INT64 is INT32."""
    graph = shape_inference.infer_shapes(model).graph
    found = {name: weight.data_type for name, weight in weights.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        found[value.name] = value.type.tensor_type.elem_type
    found = {name: TYPE_NAMES.get(kind, TensorProto.DataType.Name(kind)) for name, kind in found.items()}
    return found if api.number >= (10,) else {n: "INT32" if kind == "INT64" else kind for n, kind in found.items()}


def _refuse_types(node, types, api):
    operator = node.op_type
    known = api.types.get(operator)
    if known is None or operator in UNTYPED:
        return
    for name in node.input[: TYPED_INPUTS.get(operator, 1)]:
        kind = types.get(name)
        if kind is not None and kind not in known:
            yield "UNSUPPORTED_NODE", f"{operator} takes {', '.join(sorted(known))}, not {kind}"
    made = types.get(node.output[0])
    if operator == "Cast" and made == "BOOL" and api.number < (8, 4):
        yield "UNSUPPORTED_NODE", "an identity layer of 8.2 converts from BOOL, but not to it"


def _refuse_quantisation(node, constants, api):
    if len(node.input) < 3 and api.number < (10,):
        yield "INVALID_NODE", f"This version of TensorRT requires 3 inputs for the {node.op_type} operator."
        return
    data, scale, zero = (constants.get(name) for name in (*node.input, "")[:3])
    if data is not None and node.op_type == "DequantizeLinear" and data.data_type != TensorProto.INT8:
        kind = TensorProto.DataType.Name(data.data_type)
        yield "UNSUPPORTED_NODE", f"DequantizeLinear takes INT8, not {kind} (an INT32 bias must stay float)"
    if data is not None and node.op_type == "DequantizeLinear" and api.number < (10,):
        yield "UNSUPPORTED_NODE", "INT8 constants are not relied on before 10: quantise float ones in the graph"
    if scale is not None:
        if api.number < (10,) and scale.data_type != TensorProto.FLOAT:
            yield "INVALID_NODE", "the importers before 10 read the scale as float32 whatever it is"
        elif not (numpy_helper.to_array(scale) > 0).all():
            yield "INVALID_NODE", "Scale coefficients must all be positive"
    if zero is not None:
        if zero.data_type not in (TensorProto.INT8, TensorProto.FLOAT):
            yield "UNSUPPORTED_NODE", "the zero point must be INT8"
        if numpy_helper.to_array(zero).any():
            yield "INVALID_NODE", "TRT only supports symmetric quantization - zeroPt must be all zeros"


def _exceeds_int32(weight):
    return np.abs(numpy_helper.to_array(weight)).max(initial=0) > 2**31 - 1


def uses_half(model):
    """Does the graph name float16 anywhere?"""
    values = [*model.graph.input, *model.graph.output]
    return any(w.data_type == TensorProto.FLOAT16 for w in model.graph.initializer) or any(
        v.type.tensor_type.elem_type == TensorProto.FLOAT16 for v in values
    )


def uses_int8(model):
    return any(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in model.graph.node)
