"""What the tests of the simulation share: small models, and the shortest way to an engine on any release."""

from contextlib import contextmanager

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from .. import simulated


@contextmanager
def misuse(*words, **options):
    """A simulation whose end must report all these words, and nothing else; leaks only where one is asked for."""
    leaks = any("leak:" in word for word in words)
    with pytest.raises(AssertionError, match="misuse"), simulated(leaks=leaks, **options) as device:
        yield device
    for word in words:
        assert any(word in error for error in device.errors), device.errors
    for error in device.errors:
        assert any(word in error for word in words), device.errors


def model(nodes, inputs, outputs, weights=(), opset=13):
    """ONNX bytes. inputs, outputs: {name: shape} in float32, or {name: (shape, type)}."""

    def info(name, shape):
        shape, kind = shape if isinstance(shape, tuple) else (shape, TensorProto.FLOAT)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [helper.make_node(op, i, o, **attributes) for op, i, o, attributes in nodes],
        "tiny",
        [info(*item) for item in inputs.items()],
        [info(*item) for item in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(weights).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return made.SerializeToString()


def linear(kind=TensorProto.FLOAT):
    """y = x W with x (batch, 4), W (4, 3): needs scratch memory. y = 2 x where W is all twos on the diagonal."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    shapes = {"x": (["batch", 4], kind)}, {"y": (["batch", 4], kind)}
    return model([("MatMul", ["x", "w"], ["y"], {})], *shapes, {"w": 2 * np.eye(4, dtype=dtype)})


def doubled(kind=TensorProto.FLOAT, channels=3):
    """y = x + x on images (batch, channels, 2, 2): needs no scratch memory."""
    shape = (["batch", channels, 2, 2], kind)
    return model([("Add", ["x", "x"], ["y"], {})], {"x": shape}, {"y": shape})


PROFILE = {"x": ((1, 4), (2, 4), (8, 4))}
IMAGES = {"x": ((1, 3, 2, 2), (2, 3, 2, 2), (8, 3, 2, 2))}


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def network(trt, data, logger=None):
    """(builder, network, config, parser) of a model, parsed as the release wants it."""
    logger = logger or trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    made = builder.create_network(1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0)
    parser = trt.OnnxParser(made, logger)
    parsed = parser.parse(data)
    config = builder.create_builder_config()
    if hasattr(trt.BuilderFlag, "FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    assert bool(parser.num_errors) != bool(parsed and made.num_outputs)
    return builder, made, config, parser


def build(trt, data, profiles=(PROFILE,), layout=None, prepare=lambda config: None):
    """The plan's bytes."""
    builder, made, config, parser = network(trt, data)
    assert parser.num_errors == 0, parser.get_error(0)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, three in shapes.items():
            profile.set_shape(name, *three)
        config.add_optimization_profile(profile)
    if layout is not None:
        for tensor in (made.get_input(0), made.get_output(0)):
            tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, layout))
    prepare(config)
    plan = builder.build_serialized_network(made, config)
    return None if plan is None else bytes(plan)


def load(trt, plan):
    return trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)


@contextmanager
def pycuda_context():
    """The primary context, pushed in this thread."""
    import pycuda.driver as cuda

    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        yield cuda
    finally:
        context.pop()


def opened(data=None, profiles=(PROFILE,), **options):
    """(trt, cuda, plan) inside a simulation."""
    import pycuda.driver as cuda
    import tensorrt as trt

    return trt, cuda, build(trt, data or linear(), profiles, **options)


class Bound:
    """An engine with input x and output y, its context and buffers, under any release's names."""

    def __init__(self, trt, cuda, plan, shape=(2, 4), context=None):
        self.cuda, self.release = cuda, trt.__version__.rsplit(".", 1)[0]
        self.engine = load(trt, plan)
        self.context = context or self.engine.create_execution_context()
        self.named = hasattr(self.context, "set_tensor_address")
        self.x, self.y = cuda.mem_alloc(512), cuda.mem_alloc(512)
        self.stream = cuda.Stream(1)
        self.host, self.answer = (cuda.pagelocked_empty(shape or (2, 4), np.float32) for _ in "xy")
        if shape is not None:
            assert self.reshape(shape)

    def reshape(self, shape):
        if self.named:
            return self.context.set_input_shape("x", shape)
        return self.context.set_binding_shape(self.engine.get_binding_index("x"), shape)

    def enqueue(self, stream=None, x=None, y=None):
        handle = (stream or self.stream).handle
        x, y = int(self.x if x is None else x), int(self.y if y is None else y)
        if not self.named:
            return self.context.execute_async_v2([x, y] * self.engine.num_optimization_profiles, handle)
        assert self.context.set_tensor_address("x", x) and self.context.set_tensor_address("y", y)
        return self.context.execute_async_v3(handle)

    def infer(self, array):
        """The answer, by the book."""
        self.host[...] = array
        self.cuda.memcpy_htod_async(self.x, self.host, self.stream)
        assert self.enqueue()
        self.cuda.memcpy_dtoh_async(self.answer, self.y, self.stream)
        self.stream.synchronize()
        return np.array(self.answer)

    def close(self):
        """Let go of everything; the buffers are free then."""
        self.context = self.engine = None
        self.stream = self.host = self.answer = None
        self.x.free(), self.y.free()
