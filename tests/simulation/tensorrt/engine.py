"""Runtime and engine of the `tensorrt` double.

An engine describes its tensors by name (8.5 and later) or by numbered bindings (up to 8.6). In 8.x the context of an
engine with dynamic shapes takes an optimization profile for itself, unless PreviewFeature.PROFILE_SHARING_0806 was on
when it was built; from 10 on profiles are shared (include/NvInferRuntime.h, createExecutionContext and
setOptimizationProfileAsync; NVIDIA/TensorRT issue 1597).
"""

import json
from typing import Any

from ..device.memory import Fault
from . import kernels
from .plan import Plan
from .types import Crash, Dims, buffer, deprecated


class Runtime:
    _home: Any

    def __init__(self, logger):
        self._home.start(self, logger)

    def deserialize_cuda_engine(self, serialized_engine):
        """The engine, or None after an error in the log. Without a context real TensorRT may take the process down."""
        data = buffer(serialized_engine)
        home = self._home
        problem = home.no_context()
        if problem:
            home.device.error(f"an engine was deserialised without a CUDA context: {problem}")
            raise Crash(problem)
        try:
            plan = Plan(data)
        except (ValueError, KeyError):
            home.log("ERROR", "Serialization assertion failed. Magic tag does not match")
            return None
        meta = plan.meta
        if meta["release"] != home.api.release:
            text = f"expecting library version {home.api.version} got {meta['version']}, please rebuild."
            home.log("ERROR", f"The engine plan file is not compatible with this version of TensorRT, {text}")
            return None
        if meta["sm"] != home.device.sm:
            theirs, ours = (f"{sm // 10}.{sm % 10}" for sm in (meta["sm"], home.device.sm))
            text = f"expecting compute {ours} got compute {theirs}, please rebuild."
            home.log("ERROR", f"The engine plan file is generated on an incompatible device, {text}")
            return None
        if meta["gpu"] != home.device.name:
            home.log("WARNING", "Using an engine plan file across different models of devices is not recommended")
        try:
            kernels.load(meta["tactics"], home.device)
        except Fault as fault:
            home.log("ERROR", f"[defaultAllocator] Cuda Runtime ({fault})")
            return None
        memory = home.take(plan.weights_size, "an engine's weights")
        return None if memory is None else home.new("ICudaEngine", self, plan, memory)


class ICudaEngine:
    _home: Any

    def __init__(self):
        raise TypeError("tensorrt.ICudaEngine: No constructor defined!")

    def _setup(self, runtime, plan, memory):
        self._runtime, self._plan, self._memory = runtime, plan, memory
        self._tensors = plan.meta["tensors"]
        self._profiles = plan.meta["profiles"]
        self._taken = {}  # profile -> the state of the context that has it, where profiles are not shared
        return self

    def __del__(self):
        if hasattr(self, "_memory"):
            self._home.give_back(self._memory)

    def _tensor(self, name):
        """A tensor's entry; an unknown name is logged and answered with nothing, as TensorRT does."""
        if not isinstance(name, str):
            raise TypeError(f"incompatible function arguments: a tensor's name is a str, not {name!r}")
        found = next((t for t in self._tensors if t["name"] == name), None)
        if found is None:
            self._home.device.error(f"the engine has no tensor {name!r}")
            self._home.log("ERROR", f"given invalid tensor name: {name}")
        return found

    def _binding(self, index):
        """(profile, tensor) of a binding: each profile has a set of its own. By name: that of profile 0."""
        if isinstance(index, str):
            return 0, self._tensor(index)
        if not 0 <= index < len(self._tensors) * len(self._profiles):
            self._home.device.error(f"the engine has no binding {index}")
            raise IndexError(index)
        profile, number = divmod(index, len(self._tensors))
        return profile, self._tensors[number]

    # -- tensors, from 8.5 on

    @property
    def num_io_tensors(self):
        return len(self._tensors)

    def get_tensor_name(self, index):
        return self._tensors[index]["name"] if 0 <= index < len(self._tensors) else None

    def get_tensor_mode(self, name):
        tensor = self._tensor(name)
        return self._home.enum("TensorIOMode", ("INPUT" if tensor["input"] else "OUTPUT") if tensor else "NONE")

    def get_tensor_shape(self, name):
        tensor = self._tensor(name)
        return Dims(tensor["shape"] if tensor else ())

    def get_tensor_dtype(self, name):
        return self._home.enum("DataType", (self._tensor(name) or {"dtype": "FLOAT"})["dtype"])

    def get_tensor_format(self, name, profile_index=0):
        return self._home.enum("TensorFormat", (self._tensor(name) or {"layout": "LINEAR"})["layout"])

    # -- bindings, up to 8.6

    def _old(self):
        if self._home.api.number >= (8, 5):
            deprecated("the tensor of that name")

    @property
    def num_bindings(self):
        return len(self._tensors) * len(self._profiles)

    def get_binding_name(self, index):
        self._old()
        profile, tensor = self._binding(index)
        return tensor["name"] + (f" [profile {profile}]" if profile else "")

    def get_binding_index(self, name):
        self._old()
        names = [
            t["name"] + (f" [profile {k}]" if k else "") for k in range(len(self._profiles)) for t in self._tensors
        ]
        return names.index(name) if name in names else -1

    def get_binding_shape(self, index):
        self._old()
        return Dims(self._binding(index)[1]["shape"])

    def get_binding_dtype(self, index):
        self._old()
        return self._home.enum("DataType", self._binding(index)[1]["dtype"])

    def get_binding_format(self, index):
        self._old()
        return self._home.enum("TensorFormat", self._binding(index)[1]["layout"])

    # -- inspection

    def create_engine_inspector(self):
        return self._home.new("EngineInspector", self)

    # -- contexts

    @property
    def tactic_sources(self):
        """Those that the engine needs; it is taken to need whatever it was allowed."""
        return sum(1 << kernels.sources(self._home.api)[name] for name in self._plan.meta["tactics"])

    @property
    def num_optimization_profiles(self):
        return len(self._profiles)

    @property
    def device_memory_size(self):
        if self._home.api.number >= (10,):
            deprecated("device_memory_size_v2")
        return self._plan.meta["scratch"]

    @property
    def device_memory_size_v2(self):
        return self._plan.meta["scratch"]

    def create_execution_context(self, strategy=None):
        """None after an error in the log, for example where there is no memory."""
        home = self._home
        if strategy is not None:
            if home.api.number < (10,):
                raise TypeError(f"create_execution_context of TensorRT {home.api.release} takes no argument")
            strategy = home.member("ExecutionContextAllocationStrategy", strategy)
        return self._context(strategy != "USER_MANAGED")

    def create_execution_context_without_device_memory(self):
        if self._home.api.number >= (10,):
            deprecated("create_execution_context")
        return self._context(False)

    def _context(self, owns_memory):
        home = self._home
        problem = home.no_context()
        if problem:
            home.device.error(f"an execution context was made without a CUDA context: {problem}")
            home.log("ERROR", problem)
            return None
        size = self._plan.meta["scratch"]
        memory = home.take(size, "an execution context's scratch memory") if owns_memory and size else None
        if owns_memory and size and memory is None:
            return None
        return home.new("IExecutionContext", self, memory, owns_memory)


class EngineInspector:
    """Tells the names of an engine's layers, as it does of one that was built with ProfilingVerbosity.LAYER_NAMES_ONLY,
    which is the default (include/NvInferRuntime.h, IEngineInspector). Here they are those of the network: nothing is
    fused."""

    _home: Any

    def _setup(self, engine):
        self._engine = engine
        return self

    def get_engine_information(self, format):
        kind = self._home.member("LayerInformationFormat", format)
        names = self._engine._plan.layers
        if kind == "ONELINE":
            return "\n".join(names)
        return json.dumps({"Layers": names, "Bindings": [t["name"] for t in self._engine._tensors]})
