"""`pycuda.driver` on the simulated device: memory, copies, streams and events; see pycuda_contexts.py for the rest.

Addresses are ints or allocations, streams are Streams and buffers contiguous; anything else is Boost's ArgumentError
or a ValueError, as in src/wrapper/wrap_cudadrv.cpp of inducer/pycuda.
"""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..device import codes
from ..not_simulated import Unsimulated
from . import pycuda_contexts
from .pinned import bytes_of, pinned_array
from .pycuda_contexts import ArgumentError, CudaMemoryError, CudaRuntimeError, Dependent, LogicError, device, guarded

NAMES = Path(__file__).parent / "pycuda.json"

# -- memory


class _Memory(Dependent):
    _KIND = _NAME = ""
    _allocation: Any

    def __init__(self):
        raise ArgumentError("this class cannot be instantiated from Python")

    @classmethod
    def _make(cls, routine, size, mapped=False):
        made = object.__new__(cls)
        made._freed = True
        made._allocation = guarded(routine, device().allocate, size, cls._KIND, "", mapped)
        made._acquire()
        return made

    def free(self):
        if self._freed:
            raise LogicError(f"{self._NAME}::free failed: {codes.text('INVALID_HANDLE')}")
        self._clean_up(self._NAME, self._on.free, self._allocation.address, (self._KIND,))

    def __del__(self):
        if not getattr(self, "_freed", True):
            self.free()


class DeviceAllocation(_Memory):
    _KIND, _NAME = "device", "device_allocation"

    def __int__(self):
        return self._allocation.address

    __index__ = __int__


class PagelockedHostAllocation(_Memory):
    _KIND, _NAME = "pinned", "pagelocked_host_allocation"

    def get_device_pointer(self):
        return guarded("cuMemHostGetDevicePointer", device().mapped_address, self._allocation.address)


def mem_alloc(bytes):
    if type(bytes) is not int or bytes < 0:
        raise ArgumentError(f"mem_alloc takes an int, not {bytes!r}")
    return DeviceAllocation._make("cuMemAlloc", bytes)


def mem_get_info():
    return guarded("cuMemGetInfo", device().memory_info)


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    holder = PagelockedHostAllocation._make("cuMemHostAlloc", size, bool(mem_flags & 2))
    return pinned_array(holder, shape, dtype, device(), holder._allocation)


# -- copies


def _address(value):
    if isinstance(value, DeviceAllocation):
        return value._allocation.address
    if type(value) is not int:
        raise ArgumentError(f"a device address is an int or a DeviceAllocation, not {type(value).__name__}")
    return value


def _stream(stream):
    if stream is not None and not isinstance(stream, Stream):
        raise ArgumentError(f"a stream is a pycuda.driver.Stream, not {type(stream).__name__}")
    return device().stream(0 if stream is None else stream.handle)


def _to_device(dest, src, stream, waits):
    source = device().host(bytes_of(src, writable=False))
    device().copy(_address(dest), source, len(source.data), _stream(stream), waits)


def _to_host(dest, src, stream, waits):
    target = device().host(bytes_of(dest, writable=True))
    device().copy(target, _address(src), len(target.data), _stream(stream), waits)


def memcpy_htod(dest, src):
    guarded("cuMemcpyHtoD", _to_device, dest, src, None, True)


def memcpy_htod_async(dest, src, stream=None):
    guarded("cuMemcpyHtoDAsync", _to_device, dest, src, stream, False)


def memcpy_dtoh(dest, src):
    guarded("cuMemcpyDtoH", _to_host, dest, src, None, True)


def memcpy_dtoh_async(dest, src, stream=None):
    guarded("cuMemcpyDtoHAsync", _to_host, dest, src, stream, False)


def memcpy_dtod(dest, src, size):
    guarded("cuMemcpyDtoD", lambda: device().copy(_address(dest), _address(src), size, _stream(None), True))


def memcpy_dtod_async(dest, src, size, stream=None):
    guarded("cuMemcpyDtoDAsync", lambda: device().copy(_address(dest), _address(src), size, _stream(stream)))


def memset_d8_async(dest, data, size, stream=None):
    guarded("cuMemsetD8Async", lambda: device().fill(_address(dest), data, size, _stream(stream)))


# -- streams and events


class Stream(Dependent):
    def __init__(self, flags=0):
        self._acquire()
        self._stream = guarded("cuStreamCreate", device().make_stream, not int(flags) & 1)

    @property
    def handle(self):
        return self._stream.handle

    def synchronize(self):
        guarded("cuStreamSynchronize", lambda: self._on.timeline.wait_stream(_stream(self)))

    def is_done(self):
        stream = guarded("cuStreamQuery", _stream, self)
        return stream.done >= stream.count

    def wait_for_event(self, evt):
        if not isinstance(evt, Event):
            raise ArgumentError(f"an event is a pycuda.driver.Event, not {type(evt).__name__}")
        guarded("cuStreamWaitEvent", lambda: self._on.timeline.stream_waits(_stream(self), evt._checked()))

    def __del__(self):
        if hasattr(self, "_stream"):
            self._clean_up("stream", self._on.timeline.drop, self._stream)


class Event(Dependent):
    def __init__(self, flags=0):
        int(flags)
        self._acquire()
        self._event = guarded("cuEventCreate", device().make_event)

    def _checked(self):
        return self._on.event(self._event.handle)

    def record(self, stream=None):
        guarded("cuEventRecord", lambda: self._on.timeline.record(self._checked(), _stream(stream)))
        return self

    def synchronize(self):
        guarded("cuEventSynchronize", lambda: self._on.timeline.wait_event(self._checked()))
        return self

    def query(self):
        return guarded("cuEventQuery", lambda: self._on.timeline.has_happened(self._checked()))

    def __del__(self):
        if hasattr(self, "_event"):
            self._clean_up("event", self._on.events.pop, self._event.handle)


# -- putting it in place


def install(simulated):
    """The modules by name."""
    pycuda_contexts.start(simulated)
    names = json.loads(NAMES.read_text())
    module = ModuleType("pycuda.driver")
    renamed = {
        "MemoryError": CudaMemoryError,
        "RuntimeError": CudaRuntimeError,
        "HostAllocation": PagelockedHostAllocation,
    }
    for name in names["imitated"]:
        value = renamed.get(name) or globals().get(name) or getattr(pycuda_contexts, name)
        setattr(module, name, value)

    def other(name):
        """Names of the real module that are not imitated are there, but cannot be used."""
        if name in names["others"]:
            return Unsimulated(f"pycuda.driver.{name}")
        raise AttributeError(f"module 'pycuda.driver' has no attribute {name!r}")

    vars(module)["__getattr__"] = other
    package = ModuleType("pycuda")
    vars(package).update(__path__=[], VERSION=(2022, 1), VERSION_TEXT="2022.1", driver=module)
    return {"pycuda": package, "pycuda.driver": module}
