"""CUDA through nothing but ctypes: the driver API as libcuda exports it. Nothing is installed, nothing compiled."""

import ctypes
from typing import Any, Callable, Optional, Sequence, Tuple

import numpy as np

from .context import primary_context
from .graph_recorder import GraphRecorder
from .interface import Cuda, Gpu, Host, zeroed
from .libcuda import OUT_OF_MEMORY, Driver, Failed
from .messages import cannot_pin, driver_text, out_of_memory, unusable
from .waiting import set_waiting

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CU_DEVICE_ATTRIBUTE_...


class _Stream(ctypes.c_void_p):
    """A CUstream."""


class _Event(ctypes.c_void_p):
    """A CUevent."""


class CtypesCuda(Cuda):
    """See the base class."""

    name = "libcuda by ctypes"
    graphs = True

    def __init__(self) -> None:
        self._driver = driver = Driver()
        self._call = driver.call
        self._recorder = GraphRecorder(driver)
        try:
            driver.check("start", self._call.cuInit(0))
            if self._number("count GPUs", self._call.cuDeviceGetCount) == 0:
                raise unusable("no device")
            device = self._number("find the GPU", self._call.cuDeviceGet, 0)
            self.gpu = self._describe(device)
            set_waiting(self.gpu.integrated)
            self._context = primary_context(driver.key, lambda: self._retain(device))
        except Failed as error:
            raise unusable(error.detail)

    def push(self) -> None:
        self._driver.check("take the context", self._call.cuCtxPushCurrent(self._context))

    def pop(self) -> None:
        self._driver.check("leave the context", self._call.cuCtxPopCurrent(ctypes.byref(ctypes.c_void_p())))

    def memory(self) -> Tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._driver.check("count memory", self._call.cuMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
        return free.value, total.value

    def alloc(self, nbytes: int, what: str) -> int:
        pointer = ctypes.c_uint64()
        status = self._call.cuMemAlloc(ctypes.byref(pointer), max(1, nbytes))
        if status == OUT_OF_MEMORY:
            raise out_of_memory(what, nbytes, self)
        self._driver.check("reserve memory for %s" % what, status)
        return pointer.value

    def free(self, pointer: int) -> None:
        self._driver.check("free memory", self._call.cuMemFree(pointer))

    def pinned(self, shape: Sequence[int], dtype: Any) -> Host:
        count = int(np.prod(shape))
        nbytes = max(1, count * np.dtype(dtype).itemsize)
        address = ctypes.c_void_p()
        status = self._call.cuMemHostAlloc(ctypes.byref(address), nbytes, _DEVICE_MAP)
        if status == OUT_OF_MEMORY:
            raise cannot_pin(nbytes)
        self._driver.check("pin memory", status)
        block = (ctypes.c_ubyte * nbytes).from_address(address.value or 0)
        return zeroed(np.frombuffer(block, dtype, count).reshape(tuple(shape)))

    def unpin(self, host: Host) -> None:
        self._driver.check("unpin memory", self._call.cuMemFreeHost(host.address))

    def device_address(self, host: Host) -> Optional[int]:
        pointer = ctypes.c_uint64()
        if self._call.cuMemHostGetDevicePointer(ctypes.byref(pointer), host.address, 0):
            return None
        return pointer.value

    def stream(self) -> Any:
        made = _Stream()
        self._driver.check("make a stream", self._call.cuStreamCreate(ctypes.byref(made), _NON_BLOCKING))
        return made

    def address(self, stream: Any) -> int:
        return int(stream.value)

    def wait(self, stream: Any) -> None:
        status = self._call.cuStreamSynchronize(stream)
        if status:
            raise self._driver.error("finish", status)

    def event(self) -> Any:
        made = _Event()
        self._driver.check("make an event", self._call.cuEventCreate(ctypes.byref(made), _DISABLE_TIMING))
        return made

    def record(self, event: Any, stream: Any) -> None:
        status = self._call.cuEventRecord(event, stream)
        if status:
            raise self._driver.error("record an event", status)

    def wait_event(self, event: Any) -> None:
        status = self._call.cuEventSynchronize(event)
        if status:
            raise self._driver.error("finish", status)

    def stream_waits(self, stream: Any, event: Any) -> None:
        status = self._call.cuStreamWaitEvent(stream, event, 0)
        if status:
            raise self._driver.error("wait for an event", status)

    def destroy(self, stream_or_event: Any) -> None:
        if isinstance(stream_or_event, _Stream):
            self._driver.check("free a stream", self._call.cuStreamDestroy(stream_or_event))
        else:
            self._driver.check("free an event", self._call.cuEventDestroy(stream_or_event))

    def to_device(self, pointer: int, host: Host, stream: Any) -> None:
        status = self._call.cuMemcpyHtoDAsync(pointer, host.address, host.nbytes, stream)
        if status:
            raise self._driver.error("copy to the GPU", status)

    def to_host(self, host: Host, pointer: int, stream: Any) -> None:
        status = self._call.cuMemcpyDtoHAsync(host.address, pointer, host.nbytes, stream)
        if status:
            raise self._driver.error("copy from the GPU", status)

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        status = self._call.cuMemcpyDtoDAsync(to, source, nbytes, stream)
        if status:
            raise self._driver.error("copy on the GPU", status)

    def zero(self, pointer: int, nbytes: int, stream: Any) -> None:
        self._driver.check("clear memory", self._call.cuMemsetD8Async(pointer, 0, nbytes, stream))

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        return self._recorder.capture(stream, work)

    def launch(self, graph: Any, stream: Any) -> None:
        self._recorder.launch(graph, stream)

    def drop(self, graph: Any) -> None:
        self._recorder.drop(graph)

    def _retain(self, device: int) -> ctypes.c_void_p:
        context = ctypes.c_void_p()
        self._driver.check("start", self._call.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        return context

    def _describe(self, device: int) -> Gpu:
        name = ctypes.create_string_buffer(128)
        self._driver.check("name the GPU", self._call.cuDeviceGetName(name, len(name), device))
        major, minor, integrated = (
            self._number("ask the GPU", self._call.cuDeviceGetAttribute, kind, device)
            for kind in (_MAJOR, _MINOR, _INTEGRATED)
        )
        version = self._number("ask the driver", self._call.cuDriverGetVersion)
        text = name.value.decode("utf-8", "replace").strip()
        return Gpu(text, 10 * major + minor, driver_text(version), bool(integrated))

    def _number(self, what: str, function: Any, *arguments: int) -> int:
        """What a function answers that writes an int to its first argument."""
        answer = ctypes.c_int()
        self._driver.check(what, function(ctypes.byref(answer), *arguments))
        return answer.value
