"""CUDA through cuda-python: the driver API, every call of which answers (status, results...)."""

import ctypes
import importlib
from typing import Any, Callable, Optional, Sequence, Tuple

import numpy as np

from ..errors import BackendError
from .context import primary_context
from .interface import BindingMissing, Cuda, Gpu, Host, zeroed
from .messages import cannot_pin, driver_text, failed, out_of_memory, unusable
from .waiting import set_waiting

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_DISABLE_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP


class CudaPython(Cuda):
    """See the base class."""

    graphs = True

    def __init__(self) -> None:
        driver, self.name = _driver()
        self._driver = driver
        self._ok = driver.CUresult.CUDA_SUCCESS
        try:
            self._call("start", driver.cuInit(0))
            if self._call("count GPUs", driver.cuDeviceGetCount()) == 0:
                raise unusable("no device")
            device = self._call("find the GPU", driver.cuDeviceGet(0))
            self.gpu = self._describe(device)
            set_waiting(self.gpu.integrated)
            self._context = primary_context(
                driver, lambda: self._call("start", driver.cuDevicePrimaryCtxRetain(device))
            )
        except RuntimeError as error:  # a library or a function in it that cannot be loaded
            raise unusable(str(error))
        except _Failed as error:
            raise unusable(error.detail)

    def push(self) -> None:
        self._call("take the context", self._driver.cuCtxPushCurrent(self._context))

    def pop(self) -> None:
        self._call("leave the context", self._driver.cuCtxPopCurrent())

    def memory(self) -> Tuple[int, int]:
        free, total = self._call("count memory", self._driver.cuMemGetInfo())
        return int(free), int(total)

    def alloc(self, nbytes: int, what: str) -> int:
        result = self._driver.cuMemAlloc(max(1, nbytes))
        if result[0] == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise out_of_memory(what, nbytes, self)
        return int(self._call("reserve memory for %s" % what, result))

    def free(self, pointer: int) -> None:
        self._call("free memory", self._driver.cuMemFree(pointer))

    def pinned(self, shape: Sequence[int], dtype: Any) -> Host:
        nbytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        result = self._driver.cuMemHostAlloc(nbytes, _DEVICE_MAP)
        if result[0] == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise cannot_pin(nbytes)
        address = int(self._call("pin memory", result))
        block = (ctypes.c_ubyte * nbytes).from_address(address)
        return zeroed(np.frombuffer(block, dtype, int(np.prod(shape))).reshape(tuple(shape)))

    def unpin(self, host: Host) -> None:
        self._call("unpin memory", self._driver.cuMemFreeHost(host.address))

    def device_address(self, host: Host) -> Optional[int]:
        status, pointer = self._driver.cuMemHostGetDevicePointer(host.address, 0)
        return int(pointer) if status == self._ok else None

    def stream(self) -> Any:
        return self._call("make a stream", self._driver.cuStreamCreate(_NON_BLOCKING))

    def address(self, stream: Any) -> int:
        return int(stream)

    def wait(self, stream: Any) -> None:
        self._check("finish", self._driver.cuStreamSynchronize(stream))

    def event(self) -> Any:
        return self._call("make an event", self._driver.cuEventCreate(_DISABLE_TIMING))

    def record(self, event: Any, stream: Any) -> None:
        self._check("record an event", self._driver.cuEventRecord(event, stream))

    def wait_event(self, event: Any) -> None:
        self._check("finish", self._driver.cuEventSynchronize(event))

    def stream_waits(self, stream: Any, event: Any) -> None:
        self._check("wait for an event", self._driver.cuStreamWaitEvent(stream, event, 0))

    def destroy(self, stream_or_event: Any) -> None:
        if isinstance(stream_or_event, self._driver.CUstream):
            self._call("free a stream", self._driver.cuStreamDestroy(stream_or_event))
        else:
            self._call("free an event", self._driver.cuEventDestroy(stream_or_event))

    def to_device(self, pointer: int, host: Host, stream: Any) -> None:
        self._check("copy to the GPU", self._driver.cuMemcpyHtoDAsync(pointer, host.address, host.nbytes, stream))

    def to_host(self, host: Host, pointer: int, stream: Any) -> None:
        self._check("copy from the GPU", self._driver.cuMemcpyDtoHAsync(host.address, pointer, host.nbytes, stream))

    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        self._check("copy on the GPU", self._driver.cuMemcpyDtoDAsync(to, source, nbytes, stream))

    def zero(self, pointer: int, nbytes: int, stream: Any) -> None:
        self._call("clear memory", self._driver.cuMemsetD8Async(pointer, 0, nbytes, stream))

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        driver = self._driver
        # Thread-local: other threads may reserve memory meanwhile.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("record a graph", driver.cuStreamBeginCapture(stream, mode))
        try:
            work()
        except BaseException:
            status, unfinished = driver.cuStreamEndCapture(stream)  # the stream is itself again, whatever it answers
            if status == self._ok:
                driver.cuGraphDestroy(unfinished)
            raise
        recorded = self._call("record a graph", driver.cuStreamEndCapture(stream))
        try:
            # CUDA 12 took away the second name, and the first took other arguments before.
            instantiate = getattr(driver, "cuGraphInstantiateWithFlags", driver.cuGraphInstantiate)
            return self._call("make a graph", instantiate(recorded, 0))
        finally:
            driver.cuGraphDestroy(recorded)

    def launch(self, graph: Any, stream: Any) -> None:
        self._check("launch a graph", self._driver.cuGraphLaunch(graph, stream))

    def drop(self, graph: Any) -> None:
        self._call("free a graph", self._driver.cuGraphExecDestroy(graph))

    def _describe(self, device: Any) -> Gpu:
        driver, kinds = self._driver, self._driver.CUdevice_attribute
        name = self._call("name the GPU", driver.cuDeviceGetName(128, device))
        major, minor, integrated = (
            int(self._call("ask the GPU", driver.cuDeviceGetAttribute(kind, device)))
            for kind in (
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                kinds.CU_DEVICE_ATTRIBUTE_INTEGRATED,
            )
        )
        version = self._call("ask the driver", driver.cuDriverGetVersion())
        text = name.split(b"\0")[0].decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        return Gpu(text.strip(), 10 * major + minor, driver_text(int(version)), bool(integrated))

    def _check(self, what: str, result: Tuple[Any, ...]) -> None:
        if result[0] != self._ok:
            raise _Failed(what, self._describe_error(result[0]))

    def _call(self, what: str, result: Tuple[Any, ...]) -> Any:
        """The results of a call: none, one, or a tuple of several."""
        self._check(what, result)
        return result[1] if len(result) == 2 else result[1:]

    def _describe_error(self, status: Any) -> str:
        name = getattr(status, "name", str(status))
        text = self._driver.cuGetErrorString(status)[1]
        return "%s: %s" % (name, text.decode() if isinstance(text, bytes) else text)


class _Failed(BackendError):
    def __init__(self, what: str, detail: str) -> None:
        super().__init__(str(failed(what, detail)))
        self.detail = detail


def _driver() -> Tuple[Any, str]:
    """The module of the driver API, under its newer or its older name, and what to call the package."""
    problem = ""
    for name in ("cuda.bindings.driver", "cuda.cuda"):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            missing = getattr(error, "name", None) or ""
            if not (missing == "cuda" or missing.startswith("cuda.")):
                problem = problem or str(error)  # it is there, and something it needs is not
            continue
        return module, ("cuda-python %s" % _version()).strip()
    if problem:
        raise unusable(problem)
    raise BindingMissing("cuda-python is not installed")


def _version() -> str:
    for name in ("cuda.bindings", "cuda"):
        try:
            return str(importlib.import_module(name).__version__)
        except (ImportError, AttributeError):
            continue
    return ""
