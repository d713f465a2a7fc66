"""The four generations of TensorRT's Python API behind one: an engine, its tensors, and its engine contexts.

8.2 has numbered bindings, 8.5 named tensor addresses, 10 memory strategies and sizes in 64 bits, and 11 has dropped
what came before. What is there is asked of the objects, never of the version. CUDA must be opened before anything here
is used: without a GPU, reading an engine can end the process.

An engine context is what TensorRT calls an IExecutionContext: the state of one engine's runs. The execution context of
backends/interface.py has one for each subgraph.
"""

import ctypes
import importlib
import threading
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Deque, Dict, Iterator, NamedTuple, Sequence, Tuple

import numpy as np

from ..errors import BackendError
from .formats import check_format


class Tensor(NamedTuple):
    """An input or output of an engine. shape: -1 where it is free; layout: see formats.py."""

    name: str
    dtype: "np.dtype[Any]"
    shape: Tuple[int, ...]
    layout: str


class Library:
    """TensorRT as installed.

    typed: graphs are taken with the types they are written with, and with no others at their borders, as 11 does it;
    where it is False TensorRT picks types among those that flags allow, as `trtexec --fp16` has it do. shares_profiles:
    any number of contexts of one engine with free dimensions may exist; where it is False there can be one.
    picks_memory: contexts are told how to come by their memory. log: the logger that TensorRT's objects are made with.
    """

    def __init__(self) -> None:
        self.trt = _import()
        self.version = str(self.trt.__version__)
        self.log, self._errors = _logger(self.trt)
        # Strong types are an option from 9 on. Not taken: they convert nothing at an engine's borders, so the host
        # would have to (0.3 ms for a picture of 224 px), where TensorRT does it in the kernel that changes the layout.
        self.typed = not hasattr(self.trt.BuilderFlag, "FP16")
        preview = getattr(self.trt, "PreviewFeature", None)
        self.picks_memory = hasattr(self.trt, "ExecutionContextAllocationStrategy")
        self.shares_profiles = self.picks_memory or hasattr(preview, "PROFILE_SHARING_0806")
        self._runtime: Any = None

    def engine(self, plan: bytes, name: str) -> "Engine":
        """The engine in a plan. Raises BackendError with TensorRT's words where it refuses it."""
        self._errors.clear()
        try:
            if self._runtime is None:
                self._runtime = self.trt.Runtime(self.log)
            engine = self._runtime.deserialize_cuda_engine(plan)
        except Exception as error:  # pybind11 raises what C++ threw as RuntimeError or TypeError
            raise BackendError("TensorRT %s cannot load the engine of %s: %s" % (self.version, name, self.said(error)))
        if engine is None:
            raise BackendError("TensorRT %s cannot load the engine of %s: %s" % (self.version, name, self.said()))
        return Engine(self, engine, name)

    def said(self, error: object = "") -> str:
        """What TensorRT wrote last of what went wrong, in one line."""
        words = [str(error)] if str(error) else []
        words += [text for text in self._errors if text not in words]
        return "; ".join(" ".join(text.split()) for text in words)[:500] or "it gives no reason"

    def forget(self) -> None:
        """Drop what TensorRT wrote so far."""
        self._errors.clear()


class Engine:
    """A deserialised engine. tensors: its inputs and outputs, by name; scratch: bytes of memory that one engine context
    works in; shared: any number of engine contexts may exist. Where profiles are not shared that holds for an engine
    without free dimensions, which needs none (include/NvInferRuntime.h, createExecutionContext)."""

    def __init__(self, library: Library, raw: Any, name: str) -> None:
        self.library = library
        self.name = name
        self._raw = raw
        self._named = hasattr(raw, "num_io_tensors")
        trt = library.trt
        dtypes: Dict[Any, "np.dtype[Any]"] = {
            trt.DataType.FLOAT: np.dtype(np.float32),
            trt.DataType.HALF: np.dtype(np.float16),
            trt.DataType.INT8: np.dtype(np.int8),
            trt.DataType.INT32: np.dtype(np.int32),
        }
        self.tensors: Dict[str, Tensor] = {}
        for key, dtype, shape, layout in self._describe():
            where = "the engine of %s: %s" % (name, key)
            check_format(layout, where)
            if dtype not in dtypes:
                raise BackendError("%s is %s, which this da3 does not know: run `da3 build`" % (where, dtype))
            self.tensors[key] = Tensor(key, dtypes[dtype], shape, layout)
        self.shared = library.shares_profiles or all(-1 not in tensor.shape for tensor in self.tensors.values())
        newer = hasattr(raw, "device_memory_size_v2")
        self.scratch = int(raw.device_memory_size_v2 if newer else raw.device_memory_size)

    def _describe(self) -> Iterator[Tuple[str, Any, Tuple[int, ...], str]]:
        """Name, type, shape and layout of each tensor."""
        raw = self._raw
        if self._named:
            for name in [raw.get_tensor_name(i) for i in range(raw.num_io_tensors)]:
                shape = tuple(raw.get_tensor_shape(name))
                yield name, raw.get_tensor_dtype(name), shape, raw.get_tensor_format(name).name
        else:
            for i in range(raw.num_bindings):
                shape = tuple(raw.get_binding_shape(i))
                yield raw.get_binding_name(i), raw.get_binding_dtype(i), shape, raw.get_binding_format(i).name

    def context(self, scratch: int) -> "EngineContext":
        """An engine context that works in the memory at `scratch`, which it shares with others that run before or
        after it. Raises BackendError."""
        context = self.bare_context()
        context.work_in(scratch, self.scratch)
        return context

    def bare_context(self) -> "EngineContext":
        """An engine context without memory to work in. Raises BackendError."""
        library = self.library
        library.forget()
        try:
            if library.picks_memory:
                raw = self._raw.create_execution_context(library.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            else:
                raw = self._raw.create_execution_context_without_device_memory()
        except Exception as error:  # see Library.engine
            raise BackendError("TensorRT cannot run %s: %s" % (self.name, library.said(error)))
        if raw is None:
            raise BackendError("TensorRT cannot run %s: %s" % (self.name, library.said()))
        return (NamedContext if self._named else NumberedContext)(raw, self)

    @property
    def raw(self) -> Any:
        """TensorRT's own object, for inspection."""
        return self._raw

    def number(self, name: str) -> int:
        """A tensor's place among the bindings (8.2)."""
        return int(self._raw.get_binding_index(name))


class EngineContext(ABC):
    """The state of one engine's runs: where its tensors lie, and of what shape they are. Never used by two threads at
    once. All calls raise BackendError where TensorRT refuses them."""

    def __init__(self, raw: Any, engine: Engine) -> None:
        self._raw = raw
        self._engine = engine
        self._shapes: Dict[str, Tuple[int, ...]] = {}

    def work_in(self, address: int, nbytes: int) -> None:
        """Give it the memory that it works in."""
        if not nbytes:
            return
        library = self._engine.library
        try:
            _set_memory(self._raw, address, nbytes)
        except Exception as error:  # see Library.engine
            raise BackendError("TensorRT cannot run %s: %s" % (self._engine.name, library.said(error)))

    def scratch_for(self, shapes: Sequence[Tuple[str, Tuple[int, ...]]]) -> int:
        """The bytes of memory that it works in while its inputs have these shapes, 0 where TensorRT does not say; then
        this engine context is not to be used. From 10 on.

        No input may be given another shape afterwards: TensorRT has laid out the memory for these (see
        updateDeviceMemorySizeForShapes in include/NvInferRuntime.h).
        """
        for name, shape in shapes:
            self.shape(name, shape)
        return int(self._raw.update_device_memory_size_for_shapes())

    @abstractmethod
    def place(self, name: str, address: int) -> None:
        """Say where a tensor lies from the next run on."""

    def shape(self, name: str, shape: Tuple[int, ...]) -> None:
        """Set the shape of an input from the next run on; nothing happens if it has that shape."""
        if self._shapes.get(name) != shape:
            self._engine.library.forget()
            if not self._set_shape(name, shape):
                raise BackendError(
                    "the engine of %s does not take %s of shape %s: %s"
                    % (self._engine.name, name, list(shape), self._engine.library.said())
                )
            self._shapes[name] = shape

    def enqueue(self, stream: int) -> None:
        """Put a run into the stream."""
        if not self._enqueue(stream):
            raise BackendError("TensorRT could not run %s: %s" % (self._engine.name, self._engine.library.said()))

    @abstractmethod
    def _set_shape(self, name: str, shape: Sequence[int]) -> Any: ...

    @abstractmethod
    def _enqueue(self, stream: int) -> Any: ...


class NamedContext(EngineContext):
    """An engine context from 8.5 on, where tensors have names."""

    def place(self, name: str, address: int) -> None:
        if not self._raw.set_tensor_address(name, address):
            raise BackendError("the engine of %s has no tensor %s: run `da3 build`" % (self._engine.name, name))

    def _set_shape(self, name: str, shape: Sequence[int]) -> Any:
        return self._raw.set_input_shape(name, shape)

    def _enqueue(self, stream: int) -> Any:
        return self._raw.execute_async_v3(stream)


class NumberedContext(EngineContext):
    """An engine context of 8.2 and 8.4, where tensors have numbers."""

    def __init__(self, raw: Any, engine: Engine) -> None:
        super().__init__(raw, engine)
        self._numbers = {name: engine.number(name) for name in engine.tensors}
        self._bindings = [0] * len(self._numbers)

    def place(self, name: str, address: int) -> None:
        self._bindings[self._numbers[name]] = address

    def _set_shape(self, name: str, shape: Sequence[int]) -> Any:
        return self._raw.set_binding_shape(self._numbers[name], shape)

    def _enqueue(self, stream: int) -> Any:
        return self._raw.execute_async_v2(self._bindings, stream)


def _set_memory(context: Any, address: int, size: int) -> None:
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size)
        return
    try:
        context.device_memory = address
    except TypeError:  # 8.2 takes a void pointer, which Python has as a capsule only
        context.device_memory = _capsule(address)


def _capsule(address: int) -> Any:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype = ctypes.py_object
    make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(address, None, None)


def _import() -> Any:
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise BackendError(
            "TensorRT cannot be imported (%s): on a Jetson use the system's python3, or a virtual environment made "
            "with --system-site-packages; elsewhere pip install tensorrt" % str(error).split("\n")[0]
        )


# There is one logger for each process and package: TensorRT stays with the first it is given, and complains about any
# other.
_loggers: Dict[int, Tuple[Any, Any, Deque[str]]] = {}
_lock = threading.Lock()


def _logger(trt: Any) -> Tuple[Any, Deque[str]]:
    """The logger, and the list that it writes the last errors to."""
    with _lock:
        if id(trt) not in _loggers:
            errors: Deque[str] = deque(maxlen=4)
            _loggers[id(trt)] = (trt, _make_logger(trt, errors), errors)
        return _loggers[id(trt)][1:]


def _make_logger(trt: Any, errors: Deque[str]) -> Any:
    """A logger that keeps errors.

    TensorRT hands it every line, whatever its severity, and has to take the interpreter's lock for each: 7,476 lines in
    the 3.1 s that TensorRT-RTX 1.7 takes to build MobileNetV2's five parts, 5 ms in here. What filters natively cannot
    do its work: trt.Logger prints to stdout what it lets through, and keeps nothing; a builder with an IErrorRecorder
    took the process down (TensorRT-RTX 1.7) at the first error behind a build that had succeeded.
    """
    if not hasattr(trt, "ILogger"):
        return trt.Logger(trt.Logger.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.ERROR):  # 0: internal error, 1: error
                errors.append(message)

    return Logger()
