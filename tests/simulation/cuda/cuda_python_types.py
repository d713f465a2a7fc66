"""Handles and enums of cuda-python, and what its functions are made of; see cuda_python.py."""

import ctypes
from enum import IntEnum
from typing import Any

import numpy as np

from ..device import codes
from ..device.memory import FIRST, Fault
from .pinned import bytes_of


class Handle:
    """An opaque number. Equal by value since 13, by identity before."""

    by_value = True

    def __init__(self, init_value=0):
        if isinstance(init_value, (str, bytes, float)) or not hasattr(init_value, "__int__"):
            raise TypeError("an integer is required")
        self._value = int(init_value)

    def __int__(self):
        return self._value

    def __repr__(self):
        return f"<{type(self).__name__} {self._value:#x}>"

    def __eq__(self, other):
        if not self.by_value:
            return self is other
        return isinstance(other, Handle) and self._value == other._value

    def __hash__(self):
        return hash(self._value) if self.by_value else id(self)


class CUdevice(Handle):
    pass


class CUdeviceptr(Handle):
    pass


class CUcontext(Handle):
    pass


class CUstream(Handle):
    pass


class CUevent(Handle):
    pass


class CUgraph(Handle):
    pass


class CUgraphExec(Handle):
    pass


class CUgraphNode(Handle):
    pass


CUresult: Any = IntEnum(  # type: ignore[misc]
    "CUresult", {"CUDA_SUCCESS": 0, **{f"CUDA_ERROR_{k}": v[0] for k, v in codes.CODES.items()}}
)
CUdevice_attribute = IntEnum(
    "CUdevice_attribute",
    {
        "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": 16,
        "CU_DEVICE_ATTRIBUTE_INTEGRATED": 18,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
    },
)
CUstreamCaptureMode = IntEnum(
    "CUstreamCaptureMode",
    {
        "CU_STREAM_CAPTURE_MODE_GLOBAL": 0,
        "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1,
        "CU_STREAM_CAPTURE_MODE_RELAXED": 2,
    },
)
CUstreamCaptureStatus = IntEnum(
    "CUstreamCaptureStatus", {"CU_STREAM_CAPTURE_STATUS_NONE": 0, "CU_STREAM_CAPTURE_STATUS_ACTIVE": 1}
)


def handle(kind, value):
    """A handle argument's number: None is 0, a handle of that kind its own, anything else what the kind makes of it."""
    return 0 if value is None else int(value if isinstance(value, kind) else kind(value))


def member(value, kind):
    """An enum argument: the bindings read its `.value`, which an int does not have."""
    if not isinstance(value, kind):
        raise AttributeError(f"{type(value).__name__!r} object has no attribute 'value' (a {kind.__name__} is wanted)")
    return value.value


class Binding:
    """What the functions do, whatever the version calls them."""

    def __init__(self, device, version):
        self._device, self._timeline, self._version = device, device.timeline, version

    def _void(self, pointer, size):
        """A void* argument: a device address, or a Host."""
        if isinstance(pointer, np.generic):
            self._device.error("a numpy integer was passed as an address: cuda-python takes the integer's own bytes")
        if isinstance(pointer, CUdeviceptr):
            pointer = int(pointer)
        if pointer is None or (isinstance(pointer, int) and pointer == 0):
            raise Fault("INVALID_VALUE", "a null pointer")
        if not isinstance(pointer, int):
            return self._device.host(bytes_of(pointer, writable=False))
        if pointer >= FIRST:
            return pointer
        found = self._device.store.pinned(pointer, size)
        if found is not None:
            allocation, offset = found
            return self._device.host(allocation.data[offset : offset + size])
        return self._device.host(np.frombuffer((ctypes.c_ubyte * size).from_address(pointer), np.uint8))

    def _copy(self, target, source, size, kind, stream, waits):
        """kind: "HtoD", "DtoH" or "DtoD", which the ends must be."""
        ends = self._void(target, size), self._void(source, size)
        found = "to".join("D" if isinstance(end, int) else "H" for end in reversed(ends))
        if kind != found:
            raise Fault("INVALID_VALUE", f"the call says {kind}, the pointers are {found}")
        self._device.copy(*ends, size, stream, waits)

    def _stream(self, stream):
        return self._device.stream(handle(CUstream, stream))

    def _event(self, event):
        return self._device.event(handle(CUevent, event))

    def _destroy_stream(self, stream):
        found = self._stream(stream)
        if found is self._timeline.default:
            raise Fault("INVALID_HANDLE", "the default stream")
        self._timeline.drop(found)

    def _destroy_event(self, event):
        del self._device.events[self._event(event).handle]

    def _record(self, event, stream):
        self._timeline.record(self._event(event), self._stream(stream))

    def _wait(self, stream, event):
        self._timeline.stream_waits(self._stream(stream), self._event(event))

    def _ready(self, done):
        if not done:
            raise Fault("NOT_READY")

    # -- graphs

    def _register(self, kind, graph):
        number = next(self._device.handles)
        self._device.executables[number] = (kind, graph)
        return number

    def _graph(self, kind, value):
        found = self._device.executables.get(handle(kind, value), (None, None))
        if found[0] is not kind:
            raise Fault("INVALID_VALUE", f"no such {kind.__name__}")
        return found[1]

    def _begin(self, stream, mode):
        self._timeline.begin_capture(self._stream(stream), everywhere=mode == 0)

    def _end(self, stream):
        return self._register(CUgraph, self._timeline.end_capture(self._stream(stream)))

    def _instantiate(self, graph):
        return self._register(CUgraphExec, self._graph(CUgraph, graph))

    def _launch(self, executable, stream):
        graph, stream = self._graph(CUgraphExec, executable), self._stream(stream)
        if stream.capture is not None:
            raise Fault("STREAM_CAPTURE_UNSUPPORTED", "graphs in graphs are not simulated")
        self._timeline.launch(stream, graph.works)

    def _drop(self, kind, value):
        self._graph(kind, value)
        del self._device.executables[handle(kind, value)]

    # -- the device

    def _attribute(self, attribute, device):
        if device != 0:
            raise Fault("INVALID_DEVICE")
        return {75: self._device.sm // 10, 76: self._device.sm % 10, 18: int(self._device.integrated), 16: 8}[attribute]
