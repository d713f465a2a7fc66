"""What the `tensorrt` double's builder refuses, and what it writes for the runtime to read: a line of JSON, and the
ONNX model behind it."""

import hashlib
import json

import onnx

from . import kernels
from .onnx_rules import uses_half, uses_int8

MAGIC = b"simulated TensorRT plan\n"
DEEP = {"Conv", "MatMul", "Gemm", "ConvTranspose"}  # operators that need memory to work in


def problem(network, config):
    """What the builder refuses, None if nothing."""
    if network._model is None or not network._outputs:
        return "Network must have at least one output"
    strong, int8 = network._has("STRONGLY_TYPED"), uses_int8(network._model)
    half = uses_half(network._model) or "HALF" in {t._dtype for t in network._inputs + network._outputs}
    if strong and config._flags & {"FP16", "BF16", "INT8", "FP8"}:
        return f"{sorted(config._flags & {'FP16', 'BF16', 'INT8', 'FP8'})} cannot be set for a strongly typed network"
    if not strong and half and "FP16" not in config._flags:
        return "the network has half-precision tensors, but BuilderFlag.FP16 is not set"
    if not strong and int8 and "INT8" not in config._flags:
        return "Int8 precision has been set for a layer, but int8 is not configured in the builder"
    if int8 and not has_int8(config._home.device.sm):  # the words of 8.6, in issue 3157 of NVIDIA/TensorRT
        layers = "QuantizeLayer/DequantizeLayer layers"
        return f"Error Code 9: Internal Error (Networks with {layers} require hardware with Int8 support.)"
    dynamic = [t for t in network._inputs if -1 in t._shape]
    if dynamic and not config._profiles:
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for number, profile in enumerate(config._profiles):
        for name, shapes in profile._shapes.items():
            tensor = next((t for t in network._inputs if t._name == name), None)
            if tensor is not None and any(
                len(s) != len(tensor._shape) or any(w not in (-1, n) for n, w in zip(s, tensor._shape, strict=True))
                for s in shapes
            ):
                return f"Dimension mismatch for tensor {name} and profile {number}."
        for tensor in dynamic:
            if tensor._name not in profile._shapes:
                return f"Dynamic input {tensor._name} is missing dimensions in profile {number}."
    for tensor in network._inputs + network._outputs:
        if tensor._layout() is None:
            return f"Could not find any supported formats consistent with input/output data types ({tensor._name})"
    node = kernels.missing(network, config)
    if node is not None:
        return f"Error Code 10: Internal Error (Could not find any implementation for node {node}.)"
    return None


def has_int8(sm):
    """Does a GPU multiply INT8? From sm_61 on, but for sm_62: the support matrices of TensorRT 8."""
    return sm >= 61 and sm != 62


class Plan:
    """data: the plan's bytes; meta: its first line; model: the ONNX bytes."""

    def __init__(self, data):
        header, self.model = data[len(MAGIC) :].split(b"\n", 1)
        self.data, self.meta = data, json.loads(header)
        self.digest = hashlib.sha256(data).hexdigest()
        if hashlib.sha256(self.model).hexdigest() != self.meta["sha256"]:
            raise ValueError("damaged")
        self.weights_size = max(1, self.meta["weights"])

    @property
    def layers(self):
        """A name for each of the network's layers, in order."""
        nodes = onnx.load_model_from_string(self.model).graph.node
        return [node.name or f"{node.op_type}_{number}" for number, node in enumerate(nodes)]

    @classmethod
    def of(cls, network, config, home):
        graph = network._model.graph
        # Before 10 an input that nothing reads is no binding of the engine.
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        inputs = [t for t in network._inputs if home.api.number >= (10,) or t._name in read]
        model = network._model.SerializeToString()
        profiles = [{t._name: _shapes(profile, t) for t in inputs} for profile in config._profiles]
        greatest = [max((p[t._name][2] for p in profiles), key=_volume, default=t._shape) for t in inputs]
        works = any(node.op_type in DEEP for node in graph.node)
        meta = {
            "release": home.api.release,
            "version": home.api.version,
            "sm": home.device.sm,
            "gpu": home.device.name,
            "strong": network._has("STRONGLY_TYPED"),
            "rounds": "FP16" in config._flags and not uses_half(network._model),
            # An engine without free dimensions needs no profile, so no context takes one for itself.
            "shares_profiles": home.api.number >= (10,)
            or "PROFILE_SHARING_0806" in config._preview
            or not any(-1 in t._shape for t in inputs),
            "tactics": kernels.allowed(config),
            "profiles": profiles or [{t._name: [t._shape] * 3 for t in inputs}],
            "tensors": [
                {"name": t._name, "input": t._is_input, "dtype": t._dtype, "shape": t._shape, "layout": t._layout()}
                for t in inputs + network._outputs
            ],
            "weights": sum(weight.ByteSize() for weight in graph.initializer),
            "works": works,
            "scratch": scratch_bytes({"works": works}, greatest),
            "sha256": hashlib.sha256(model).hexdigest(),
        }
        return cls(MAGIC + json.dumps(meta).encode() + b"\n" + model)


def scratch_bytes(meta, shapes):
    """The memory to work in for inputs of these shapes: an assumption, eight bytes for each of their numbers."""
    return -(-8 * sum(_volume(shape) for shape in shapes) // 256) * 256 if meta["works"] else 0


def _shapes(profile, tensor):
    return profile._shapes.get(tensor._name) or [tensor._shape] * 3


def _volume(shape):
    product = 1
    for n in shape:
        product *= max(1, n)
    return product
