"""The module `tensorrt` of one release, put together from builder.py, engine.py and context.py."""

from typing import Any
from weakref import WeakSet

from ..device.codes import number
from ..device.memory import Fault
from . import builder, context, engine, kernels, types
from .api import Api, Enum, ReleaseModule, enum, restricted
from .formats import NUMPY

IMPLEMENTATIONS = {
    "Builder": builder,
    "IBuilderConfig": builder,
    "INetworkDefinition": builder,
    "ITensor": builder,
    "IOptimizationProfile": builder,
    "OnnxParser": builder,
    "Runtime": engine,
    "ICudaEngine": engine,
    "EngineInspector": engine,
    "IExecutionContext": context,
}
SEVERITIES = {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
BYTES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "BOOL": 1, "UINT8": 1, "INT64": 8, "BF16": 2, "FP8": 1}


class Home:
    """What all objects of one simulated library share."""

    def __init__(self, release, device):
        self.api, self.device = Api(release), device
        values = {"TacticSource": kernels.sources(self.api), **self.api.enums}
        self.enums = {name: enum(self.api, name, members) for name, members in values.items()}
        self.severity = enum(self.api, "Severity", SEVERITIES)
        self.ILogger, self.Logger = types.make_loggers(self.severity)
        self.classes = {}
        for name, module in IMPLEMENTATIONS.items():
            self.classes[name] = restricted(self.api, name, getattr(module, name))
            self.classes[name]._home = self
        self.logger: Any = None
        self.owners: WeakSet[Any] = WeakSet()

    # -- objects and enums

    def new(self, name, *args):
        made = object.__new__(self.classes[name])
        made._setup(*args)
        return made

    def enum(self, name, member):
        return self.enums[name].__members__[member]

    def member(self, name, value):
        """An enum argument's name; pybind11 takes members of that enum only."""
        if not isinstance(value, Enum) or type(value) is not self.enums.get(name):
            raise TypeError(f"incompatible function arguments: a tensorrt.{name} is wanted, not {value!r}")
        return value.name

    @staticmethod
    def live(state):
        return state if state is not None and state.alive else None

    # -- logging

    def check_logger(self, logger):
        if not isinstance(logger, self.ILogger):
            raise TypeError(f"incompatible function arguments: an ILogger is wanted, not {logger!r}")
        if not hasattr(logger, "_built"):
            raise TypeError("tensorrt.ILogger.__init__() must be called when overriding __init__")

    def start(self, owner, logger):
        """What Builder and Runtime begin with. Without a usable GPU there is nothing to return.

        TensorRT has one logger at a time: as long as one builder or runtime lives, any other logger is ignored.
        """
        self.check_logger(logger)
        if not self.owners:
            self.logger = logger
        elif logger is not self.logger:
            self.log("WARNING", "The logger passed differs from one already registered; that one is used instead")
        self.owners.add(owner)
        try:
            self.device.check_driver(runtime=True)
        except Fault as fault:
            self.log("ERROR", f"CUDA initialization failure with error: {number(fault.code)}")
            raise TypeError("pybind11::init(): factory function returned nullptr") from None

    def log(self, severity, text):
        self.logger.log(self.severity.__members__[severity], f"[simulated] {text}")

    # -- CUDA

    def no_context(self):
        """Why CUDA cannot be used in this thread, None if it can.

        Real TensorRT would take the device's primary context here. A program that relies on it fails where another
        context was meant, so this simulation wants one current in the thread.
        """
        try:
            self.device.need_context()
        except Fault as fault:
            return f"Cuda Runtime ({fault})"
        return None

    def take(self, size, label):
        """Memory of TensorRT's own; None after an error in the log."""
        with self.device.lock:
            try:
                return self.device.allocate(size, "private", label)
            except Fault as fault:
                self.log("ERROR", f"[defaultAllocator] Cuda Runtime ({fault})")
                return None

    def give_back(self, allocation):
        with self.device.lock:
            if self.device.store.is_alive(allocation):
                self.device.store.give_back(allocation.address, ("private",))


def install(device, release):
    """The module by name."""
    home = Home(release, device)
    module = ReleaseModule("tensorrt", home.api)
    vars(module)["__version__"] = home.api.version
    content = {
        **home.enums,
        **home.classes,
        "ILogger": home.ILogger,
        "Logger": home.Logger,
        "Dims": types.Dims,
        "IHostMemory": types.IHostMemory,
        "ITimingCache": types.ITimingCache,
        "ParserError": types.ParserError,
        "nptype": lambda trt_type: NUMPY[trt_type.name],
    }
    for short, long in (("float32", "FLOAT"), ("float16", "HALF"), ("int8", "INT8"), ("int32", "INT32")):
        content[short] = home.enum("DataType", long)
    for name, value in content.items():
        if name in home.api.top:
            setattr(module, name, value)
    home.enums["DataType"].itemsize = property(lambda self: BYTES[self.name])
    return {"tensorrt": module}
