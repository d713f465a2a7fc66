"""Building in the `tensorrt` double: network, ONNX parser, configuration, builder.

What a release demands is checked where the real library checks it; its words are shortened.
"""

from typing import Any

import onnx

from ..device.memory import Fault
from . import formats, kernels
from .api import Enum
from .onnx_rules import TENSOR_TYPES, Refusal, refusals
from .plan import Plan, problem
from .types import Dims, IHostMemory, ITimingCache, ParserError, buffer, deprecated, dims, pointer


class ITensor:
    """An input or output of a network. shape: -1 where it is dynamic."""

    _home: Any

    def __init__(self):
        raise TypeError("tensorrt.ITensor: No constructor defined!")

    def _setup(self, value, is_input, strong):
        kind = value.type.tensor_type
        self._name, self._is_input = value.name, is_input
        self._shape = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        self._dtype = self._inferred = TENSOR_TYPES[kind.elem_type]
        self._formats = None
        self._strong = strong
        return self

    @property
    def name(self):
        return self._name

    @property
    def shape(self):
        return Dims(self._shape)

    @property
    def dtype(self):
        return self._home.enum("DataType", self._dtype)

    @dtype.setter
    def dtype(self, value):
        """ITensor::setType. Where types are strong, an output keeps the type that is inferred, and what an input is set
        to is what the graph is inferred from: another type than the file's would have to fit all that reads it, which
        is not imitated. Else any float type will do, and TensorRT converts."""
        name = self._home.member("DataType", value)
        if not self._strong:
            if name not in ("FLOAT", "HALF") or self._inferred not in ("FLOAT", "HALF"):
                self._home.device.error(f"{self._name} is {self._inferred} and was set to {name}")
            self._dtype = name
        elif name != self._inferred:
            text = f"ITensor::setType: Error Code 3: API Usage Error ({self._name} is {self._inferred} by inference"
            self._home.log("ERROR", f"{text}; {name} was set)")
            if self._is_input:
                self._home.device.error(f"{self._name}, an input of a strongly typed network, was set to {name}")

    @property
    def allowed_formats(self):
        everything = (1 << len(self._home.api.enums["TensorFormat"])) - 1
        return everything if self._formats is None else self._formats

    @allowed_formats.setter
    def allowed_formats(self, value):
        mask = pointer(value)
        if mask == 0 or isinstance(value, Enum):
            self._home.device.error(f"allowed_formats is a mask of 1 << int(TensorFormat), not {value!r}")
        self._formats = mask

    def _layout(self):
        """The layout TensorRT picks: any but the plain one if it was asked to; None where none is possible."""
        values = self._home.api.enums["TensorFormat"]
        names = ["LINEAR"] if self._formats is None else [n for n, v in values.items() if self._formats >> v & 1]
        names = [n for n in names if formats.is_possible(n, self._dtype, len(self._shape), self._home.api)]
        return next((n for n in names if n != "LINEAR"), names[0] if names else None)


class INetworkDefinition:
    _home: Any

    def __init__(self):
        raise TypeError("tensorrt.INetworkDefinition: No constructor defined!")

    def _setup(self, flags):
        self._flags = flags
        self._inputs, self._outputs, self._model = [], [], None
        return self

    def _has(self, flag):
        """Network creation flags differ by release; 11 is strongly typed whatever is asked for."""
        values = self._home.api.enums["NetworkDefinitionCreationFlag"]
        if flag == "STRONGLY_TYPED" and self._home.api.number >= (11,):
            return True
        return flag in values and bool(self._flags >> values[flag] & 1)

    def _adopt(self, model):
        known = {weight.name for weight in model.graph.initializer}
        make, strong = self._home.new, self._has("STRONGLY_TYPED")
        self._inputs = [make("ITensor", v, True, strong) for v in model.graph.input if v.name not in known]
        self._outputs = [make("ITensor", v, False, strong) for v in model.graph.output]
        self._model = model

    @property
    def num_inputs(self):
        return len(self._inputs)

    @property
    def num_outputs(self):
        return len(self._outputs)

    def get_input(self, index):
        return self._inputs[index] if 0 <= index < len(self._inputs) else None

    def get_output(self, index):
        return self._outputs[index] if 0 <= index < len(self._outputs) else None


class OnnxParser:
    _home: Any

    def __init__(self, network, logger):
        self._home.check_logger(logger)
        if type(network) is not self._home.classes["INetworkDefinition"]:
            raise TypeError("OnnxParser(network: INetworkDefinition, logger: ILogger)")
        self._network, self._errors = network, []

    def parse(self, model, path=None):
        data = buffer(model)
        network, home = self._network, self._home
        if not data:
            return True  # as the real one does; there is no network then
        if home.api.number < (10,) and not network._has("EXPLICIT_BATCH"):
            text = "This version of the ONNX parser only supports networks with an explicit batch dimension"
            self._errors.append(Refusal("INVALID_VALUE", -1, "", "", text))
        else:
            try:
                parsed = onnx.load_from_string(data)
                self._errors += refusals(parsed, home.api)
            except Exception:
                self._errors.append(_unreadable())
        for error in self._errors:
            home.log("ERROR", f"{error.code}: {error.text}")
        if self._errors:
            return False
        network._adopt(parsed)
        return True

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return ParserError(self._errors[index])


def _unreadable():
    return Refusal("MODEL_DESERIALIZE_FAILED", -1, "", "", "Failed to parse the ONNX model.")


class IOptimizationProfile:
    def __init__(self):
        raise TypeError("tensorrt.IOptimizationProfile: No constructor defined!")

    def _setup(self):
        self._shapes = {}
        return self

    def set_shape(self, input, min, opt, max):
        shapes = [dims(shape) for shape in (min, opt, max)]
        for shape, what in zip(shapes, ("min", "opt", "max"), strict=True):
            if any(n < 0 for n in shape):
                raise RuntimeError(f"Shape provided for {what} is inconsistent with other shapes.")
        self._shapes[input] = shapes

    def __bool__(self):
        """min <= opt <= max, for every input; set_shape does not look at that."""
        for low, usual, high in self._shapes.values():
            fits = len(low) == len(usual) == len(high)
            if not (fits and all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True))):
                return False
        return True


def _plain(name):
    """A number that can be set and read, and has no effect here."""
    return property(lambda self: self._values[name], lambda self, value: self._values.update({name: value}))


class IBuilderConfig:
    _home: Any

    def __init__(self):
        raise TypeError("tensorrt.IBuilderConfig: No constructor defined!")

    def _setup(self):
        self._flags = {"TF32"}
        self._preview, self._profiles, self._cache = kernels.default_previews(self._home.api), [], None
        self._sources = kernels.default_sources(self._home.api, self._home.device)
        self._pools = {"WORKSPACE": self._home.device.memory}
        self._values = {"max_aux_streams": -1, "builder_optimization_level": 3}
        return self

    @property
    def max_workspace_size(self):
        return self._pools["WORKSPACE"]

    @max_workspace_size.setter
    def max_workspace_size(self, size):
        if self._home.api.number >= (8, 5):
            deprecated("set_memory_pool_limit")
        self._pools["WORKSPACE"] = pointer(size)

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[self._home.member("MemoryPoolType", pool)] = pointer(pool_size)

    def set_flag(self, flag):
        self._flags.add(self._home.member("BuilderFlag", flag))

    def clear_flag(self, flag):
        self._flags.discard(self._home.member("BuilderFlag", flag))

    def set_preview_feature(self, feature, enable):
        name = self._home.member("PreviewFeature", feature)
        (self._preview.add if enable else self._preview.discard)(name)

    def get_tactic_sources(self):
        return self._sources

    def set_tactic_sources(self, tactic_sources):
        """False, and nothing set, for a bit that no source has."""
        mask = pointer(tactic_sources)
        if mask >> len(kernels.sources(self._home.api)):
            self._home.log("ERROR", f"Parameter check failed: no tactic sources {mask:#b}")
            return False
        self._sources = mask
        return True

    def add_optimization_profile(self, profile):
        if profile is not None and type(profile) is not self._home.classes["IOptimizationProfile"]:
            raise TypeError("add_optimization_profile(profile: IOptimizationProfile)")
        if not profile:
            self._home.log("ERROR", "Parameter check failed, condition: profile->isValid().")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self):
        return len(self._profiles)

    def create_timing_cache(self, serialized_timing_cache):
        cache = ITimingCache._make(self._home, buffer(serialized_timing_cache))
        if cache is None:
            self._home.log("ERROR", "the timing cache cannot be read")
        return cache

    def set_timing_cache(self, cache, ignore_mismatch):
        if not isinstance(cache, ITimingCache):
            raise TypeError("set_timing_cache(cache: ITimingCache, ignore_mismatch: bool)")
        if not (cache._fits() or ignore_mismatch):
            self._home.log("ERROR", "the timing cache is of another release or device")
            return False
        self._cache = cache
        return True

    max_aux_streams = _plain("max_aux_streams")
    builder_optimization_level = _plain("builder_optimization_level")


class Builder:
    _home: Any

    def __init__(self, logger):
        self._home.start(self, logger)

    def create_network(self, flags=0):
        known = sum(1 << value for value in self._home.api.enums["NetworkDefinitionCreationFlag"].values())
        if pointer(flags) & ~known:
            self._home.log("ERROR", f"Parameter check failed: no network creation flags {flags:#b}")
            return None
        return self._home.new("INetworkDefinition", flags)

    def create_builder_config(self):
        return self._home.new("IBuilderConfig")

    def create_optimization_profile(self):
        return self._home.new("IOptimizationProfile")

    def build_serialized_network(self, network, config):
        """The plan, or None after an error in the log."""
        home = self._home
        why = home.no_context() or problem(network, config)
        if why:
            home.log("ERROR", why)
            return None
        plan = Plan.of(network, config, home)
        try:  # building needs memory too
            with home.device.lock:
                kernels.load(plan.meta["tactics"], home.device)
                home.device.timeline.forbid_in_capture("building")
                home.device.store.give_back(home.device.allocate(plan.weights_size, "private").address, ("private",))
        except Fault as fault:
            home.log("ERROR", f"[defaultAllocator] Cuda Runtime ({fault})")
            return None
        if config._cache is not None and "DISABLE_TIMING_CACHE" not in config._flags:
            config._cache._add(plan.digest)
        return IHostMemory(plan.data)
