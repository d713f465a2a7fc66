"""As much of TensorRT 8.2's Python API as learning calls, for Pythons that the doubles are too new for.

Engines compute with da3's reference backend, and the device's memory is the host's. What a program may and may not do
is checked by tests/simulation; this lets CPython 3.6 run the program.
"""

import ctypes

import numpy as np

from da3.runtime.backends.numpy_ops import OPERATORS, Operator
from da3.runtime.backends.reference import Program
from da3.runtime.onnx_graph.reading import read_model

__version__ = "8.2.1.8"
_MAGIC = b"plan\n"
OPERATORS["Exp"], OPERATORS["Log"] = Operator(lambda _, x: np.exp(x)), Operator(lambda _, x: np.log(x))


class Logger:
    ERROR = 1

    def __init__(self, severity):
        pass


class _Enum:
    def __init__(self, **members):
        vars(self).update(members)


NetworkDefinitionCreationFlag = _Enum(EXPLICIT_BATCH=0)
BuilderFlag = _Enum(FP16=0, INT8=1, TF32=7)
TacticSource = _Enum(CUBLAS=0, CUBLAS_LT=1, CUDNN=2)
TensorFormat = _Enum(LINEAR=0)
DataType = _Enum(FLOAT="FLOAT", HALF="HALF", INT8="INT8", INT32="INT32")


class _Format:
    name = "LINEAR"


class _Tensor:
    allowed_formats = None

    def __init__(self, info):
        self.name, self.shape = info.name, info.shape


class _Network:
    num_inputs = num_outputs = 0


class OnnxParser:
    num_errors = 0

    def __init__(self, network, log):
        self.network = network

    def parse(self, data):
        model = read_model(data, "the graph")
        self.network.data = data
        inputs, outputs = ([_Tensor(info) for info in infos] for infos in (model.inputs, model.outputs))
        self.network.num_inputs, self.network.get_input = len(inputs), inputs.__getitem__
        self.network.num_outputs, self.network.get_output = len(outputs), outputs.__getitem__
        return True


class _Cache:
    def serialize(self):
        return b"timing"


class _Config:
    max_workspace_size = 0

    def set_flag(self, flag):
        pass

    clear_flag = add_optimization_profile = set_tactic_sources = set_flag

    def get_tactic_sources(self):
        return 7

    def create_timing_cache(self, data):
        return _Cache()

    def set_timing_cache(self, cache, ignore_mismatch):
        return True


class Builder:
    def __init__(self, log):
        pass

    def create_network(self, flags):
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return None

    def build_serialized_network(self, network, config):
        return _MAGIC + network.data


class Runtime:
    def __init__(self, log):
        pass

    def deserialize_cuda_engine(self, plan):
        return _Engine(plan[len(_MAGIC) :]) if plan.startswith(_MAGIC) else None


class _Engine:
    device_memory_size = 256

    def __init__(self, data):
        self.model = read_model(data, "the graph")
        self.tensors = self.model.inputs + self.model.outputs
        self.num_bindings = len(self.tensors)
        self.program = Program(self.model, "an engine")

    def get_binding_name(self, i):
        return self.tensors[i].name

    def get_binding_index(self, name):
        return [info.name for info in self.tensors].index(name)

    def get_binding_shape(self, i):
        return self.tensors[i].shape

    def get_binding_dtype(self, i):
        return DataType.FLOAT

    def get_binding_format(self, i):
        return _Format

    def create_execution_context_without_device_memory(self):
        return _Context(self)


class _Context:
    device_memory = None

    def __init__(self, engine):
        self.engine = engine

    def execute_async_v2(self, bindings, stream):
        assert all(bindings) and stream
        arrays = [_at(bindings[i], info.shape) for i, info in enumerate(self.engine.tensors)]
        count = len(self.engine.model.inputs)
        for i, result in enumerate(self.engine.program.run(arrays[:count])):
            arrays[count + i][...] = result
        return True


def _at(address, shape):
    """The float32 array that lies there."""
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
