"""CUDA through pycuda, and through the driver's library for the graphs that pycuda lacks.

pycuda checks contexts by object and thread: whatever is made, used or freed here must have our one context object
pushed, or it warns of a leak. So nothing is left to the garbage collector.
"""

import importlib
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from ..errors import BackendError
from .context import primary_context
from .graph_recorder import GraphRecorder
from .interface import BindingMissing, Cuda, Gpu, Host, zeroed
from .libcuda import Driver
from .messages import cannot_pin, driver_text, failed, first_line, out_of_memory, unusable
from .waiting import set_waiting

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, CU_EVENT_DISABLE_TIMING: pycuda names only the second
_DISABLE_TIMING = 2
_DEVICE_MAP = 2  # host_alloc_flags.DEVICEMAP


class _Handle:
    """A stream or an event. pycuda destroys its object with the last reference, wherever that goes; here the only
    one is `raw`."""

    __slots__ = ("raw",)

    def __init__(self, raw: Any) -> None:
        self.raw = raw


class PyCuda(Cuda):
    """See the base class."""

    def __init__(self) -> None:
        driver = _driver()
        try:
            driver.init()
            if driver.Device.count() == 0:
                raise unusable("no device")
            device = driver.Device(0)
            major, minor = device.compute_capability()
            integrated = device.get_attribute(driver.device_attribute.INTEGRATED)
            version = driver_text(driver.get_driver_version())
            self.gpu = Gpu(str(device.name()), 10 * major + minor, version, bool(integrated))
            set_waiting(self.gpu.integrated)
            self._context = primary_context(driver, device.retain_primary_context)
        except BackendError:
            raise
        except Exception as error:  # pycuda's errors have no base but Exception where init itself fails
            raise unusable(str(error))
        self.name = ("pycuda %s" % _version()).strip()
        self._driver = driver
        self._error = driver.Error
        self._blocks: Dict[int, Any] = {}
        self._recorder = _recorder()
        self.graphs = self._recorder is not None

    def push(self) -> None:
        self._call("take the context", self._context.push)

    def pop(self) -> None:
        self._call("leave the context", self._context.pop)

    def memory(self) -> Tuple[int, int]:
        free, total = self._call("count memory", self._driver.mem_get_info)
        return int(free), int(total)

    def alloc(self, nbytes: int, what: str) -> int:
        try:
            block = self._driver.mem_alloc(max(1, nbytes))
        except self._driver.MemoryError:
            raise out_of_memory(what, nbytes, self)
        except self._error as error:
            raise _failed("reserve memory for %s" % what, error)
        self._blocks[int(block)] = block
        return int(block)

    def free(self, pointer: int) -> None:
        self._call("free memory", self._blocks.pop(pointer).free)

    def pinned(self, shape: Sequence[int], dtype: Any) -> Host:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            return zeroed(self._driver.pagelocked_empty(tuple(shape), dtype, mem_flags=_DEVICE_MAP))
        except self._driver.MemoryError:
            raise cannot_pin(nbytes)
        except self._error as error:
            raise _failed("pin memory", error)

    def unpin(self, host: Host) -> None:
        """Nothing: the array frees its memory itself, with its last reference."""

    def device_address(self, host: Host) -> Optional[int]:
        allocation: Any = host.array.base
        try:
            return int(allocation.get_device_pointer())
        except self._error:
            return None

    def stream(self) -> Any:
        return _Handle(self._call("make a stream", self._driver.Stream, _NON_BLOCKING))

    def address(self, stream: Any) -> int:
        return int(stream.raw.handle)

    def wait(self, stream: Any) -> None:
        try:
            stream.raw.synchronize()
        except self._error as error:
            raise _failed("finish", error)

    def event(self) -> Any:
        return _Handle(self._call("make an event", self._driver.Event, _DISABLE_TIMING))

    def record(self, event: Any, stream: Any) -> None:
        try:
            event.raw.record(stream.raw)
        except self._error as error:
            raise _failed("record an event", error)

    def wait_event(self, event: Any) -> None:
        try:
            event.raw.synchronize()
        except self._error as error:
            raise _failed("finish", error)

    def stream_waits(self, stream: Any, event: Any) -> None:
        try:
            stream.raw.wait_for_event(event.raw)
        except self._error as error:
            raise _failed("wait for an event", error)

    def destroy(self, stream_or_event: Any) -> None:
        stream_or_event.raw = None

    def to_device(self, pointer: int, host: Host, stream: Any) -> None:
        try:
            self._driver.memcpy_htod_async(pointer, host.array, stream.raw)
        except self._error as error:
            raise _failed("copy to the GPU", error)

    def to_host(self, host: Host, pointer: int, stream: Any) -> None:
        try:
            self._driver.memcpy_dtoh_async(host.array, pointer, stream.raw)
        except self._error as error:
            raise _failed("copy from the GPU", error)

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        try:
            self._driver.memcpy_dtod_async(to, source, nbytes, stream.raw)
        except self._error as error:
            raise _failed("copy on the GPU", error)

    def zero(self, pointer: int, nbytes: int, stream: Any) -> None:
        self._call("clear memory", self._driver.memset_d8_async, pointer, 0, nbytes, stream.raw)

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        if self._recorder is None:
            return super().capture(stream, work)
        return self._recorder.capture(self.address(stream), work)

    def launch(self, graph: Any, stream: Any) -> None:
        if self._recorder is None:
            super().launch(graph, stream)
        else:
            self._recorder.launch(graph, self.address(stream))

    def drop(self, graph: Any) -> None:
        if self._recorder is not None:
            self._recorder.drop(graph)

    def _call(self, what: str, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._error as error:
            raise _failed(what, error)


def _driver() -> Any:
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError as error:
        if getattr(error, "name", None) in ("pycuda", "pycuda.driver"):
            raise BindingMissing("pycuda is not installed")
        raise unusable(str(error))  # its library is there and does not load


def _version() -> str:
    try:
        return str(importlib.import_module("pycuda").VERSION_TEXT)
    except (ImportError, AttributeError):
        return ""


def _recorder() -> Optional[GraphRecorder]:
    """What records graphs on pycuda's streams, where ctypes finds the library that pycuda is linked with."""
    try:
        return GraphRecorder(Driver())
    except BackendError:
        return None


def _failed(what: str, error: Exception) -> BackendError:
    return failed(what, first_line(error))
