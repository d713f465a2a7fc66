"""NVIDIA's driver library, libcuda, by ctypes alone: which of its functions are called, and how each is declared.

Names and prototypes are those of cuda.h behind its macros. What that calls cuMemAlloc is the symbol cuMemAlloc_v2; the
symbol cuMemAlloc is there as well, is CUDA 2's, and takes 32-bit sizes and addresses. Every symbol here is exported by
all drivers from CUDA 10.2 (JetPack 4.6) to 13, except the optional ones. ctypes lets go of the interpreter's lock in
every call.
"""

import ctypes
import sys
from types import SimpleNamespace
from typing import Any, Dict, Optional, Tuple

from ..errors import BackendError
from .messages import failed, unusable

OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY

# Where the loader does not know a board's folder, as in some containers, its path does.
_FILES = (
    "libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so",
    "/usr/lib/wsl/lib/libcuda.so.1",
)

_int, _unsigned, _size, _handle = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
_address = ctypes.c_uint64  # CUdeviceptr of a 64-bit system
_host = ctypes.c_void_p
_int_out, _unsigned_out, _size_out, _address_out, _handle_out, _text_out = (
    ctypes.POINTER(kind) for kind in (_int, _unsigned, _size, _address, _handle, ctypes.c_char_p)
)

Arguments = Tuple[Any, ...]

# Name in cuda.h -> (symbol, arguments). All of them return a CUresult, an int.
_CALLS: Dict[str, Tuple[str, Arguments]] = {
    "cuGetErrorName": ("cuGetErrorName", (_int, _text_out)),
    "cuGetErrorString": ("cuGetErrorString", (_int, _text_out)),
    "cuInit": ("cuInit", (_unsigned,)),
    "cuDriverGetVersion": ("cuDriverGetVersion", (_int_out,)),
    "cuDeviceGetCount": ("cuDeviceGetCount", (_int_out,)),
    "cuDeviceGet": ("cuDeviceGet", (_int_out, _int)),
    "cuDeviceGetName": ("cuDeviceGetName", (ctypes.c_char_p, _int, _int)),
    "cuDeviceGetAttribute": ("cuDeviceGetAttribute", (_int_out, _int, _int)),
    "cuDevicePrimaryCtxGetState": ("cuDevicePrimaryCtxGetState", (_int, _unsigned_out, _int_out)),
    "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", (_handle_out, _int)),
    "cuCtxPushCurrent": ("cuCtxPushCurrent_v2", (_handle,)),
    "cuCtxPopCurrent": ("cuCtxPopCurrent_v2", (_handle_out,)),
    "cuMemGetInfo": ("cuMemGetInfo_v2", (_size_out, _size_out)),
    "cuMemAlloc": ("cuMemAlloc_v2", (_address_out, _size)),
    "cuMemFree": ("cuMemFree_v2", (_address,)),
    "cuMemHostAlloc": ("cuMemHostAlloc", (_handle_out, _size, _unsigned)),
    "cuMemHostGetDevicePointer": ("cuMemHostGetDevicePointer_v2", (_address_out, _host, _unsigned)),
    "cuMemFreeHost": ("cuMemFreeHost", (_host,)),
    "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", (_address, _host, _size, _handle)),
    "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", (_host, _address, _size, _handle)),
    "cuMemcpyDtoDAsync": ("cuMemcpyDtoDAsync_v2", (_address, _address, _size, _handle)),
    "cuMemsetD8Async": ("cuMemsetD8Async", (_address, ctypes.c_ubyte, _size, _handle)),
    "cuStreamCreate": ("cuStreamCreate", (_handle_out, _unsigned)),
    "cuStreamDestroy": ("cuStreamDestroy_v2", (_handle,)),
    "cuStreamSynchronize": ("cuStreamSynchronize", (_handle,)),
    "cuStreamWaitEvent": ("cuStreamWaitEvent", (_handle, _handle, _unsigned)),
    "cuEventCreate": ("cuEventCreate", (_handle_out, _unsigned)),
    "cuEventDestroy": ("cuEventDestroy_v2", (_handle,)),
    "cuEventRecord": ("cuEventRecord", (_handle, _handle)),
    "cuEventSynchronize": ("cuEventSynchronize", (_handle,)),
    "cuStreamBeginCapture": ("cuStreamBeginCapture_v2", (_handle, _int)),
    "cuStreamEndCapture": ("cuStreamEndCapture", (_handle, _handle_out)),
    "cuGraphLaunch": ("cuGraphLaunch", (_handle, _handle)),
    "cuGraphDestroy": ("cuGraphDestroy", (_handle,)),
    "cuGraphExecDestroy": ("cuGraphExecDestroy", (_handle,)),
}
# The first of a name's that is there is taken. Since CUDA 12 cuda.h calls the first of these cuGraphInstantiate; the
# symbol of that name has always had five arguments.
_EITHER: Dict[str, Tuple[Tuple[str, Arguments], ...]] = {
    "cuGraphInstantiateWithFlags": (("cuGraphInstantiateWithFlags", (_handle_out, _handle, ctypes.c_ulonglong)),),
    "cuGraphInstantiate": (("cuGraphInstantiate", (_handle_out, _handle, _handle_out, ctypes.c_char_p, _size)),),
    "cuDevicePrimaryCtxSetFlags": (
        ("cuDevicePrimaryCtxSetFlags_v2", (_int, _unsigned)),
        ("cuDevicePrimaryCtxSetFlags", (_int, _unsigned)),
    ),
}


class Driver:
    """The driver library. call: its functions by their names in cuda.h, declared, which return a status; None for an
    optional one that this driver lacks. key: equal for drivers that are one library.

    Raises BackendError where the library cannot be loaded or lacks a symbol.
    """

    def __init__(self) -> None:
        library = _load()
        self.key = ("libcuda", library._handle)
        self.call: Any = SimpleNamespace()
        for name, declared in _CALLS.items():
            function = _declared(library, *declared)
            if function is None:
                raise unusable("libcuda: undefined symbol: %s" % declared[0])
            setattr(self.call, name, function)
        for name, candidates in _EITHER.items():
            found = (_declared(library, *candidate) for candidate in candidates)
            setattr(self.call, name, next((function for function in found if function is not None), None))

    def check(self, what: str, status: int) -> None:
        """Raise Failed unless the status is CUDA_SUCCESS. what: what was to be done, in words."""
        if status:
            raise self.error(what, status)

    def error(self, what: str, status: int) -> "Failed":
        """The error for a status."""
        return Failed(what, self._describe(status))

    def _describe(self, status: int) -> str:
        texts = []
        for ask in (self.call.cuGetErrorName, self.call.cuGetErrorString):
            text = ctypes.c_char_p()
            if ask(status, ctypes.byref(text)) == 0 and text.value:
                texts.append(text.value.decode("utf-8", "replace"))
        return ": ".join(texts) or "CUDA error %d" % status


class Failed(BackendError):
    """A call of the driver failed. detail: the driver's name and text for it."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(str(failed(what, detail)))
        self.detail = detail


def _load() -> Any:
    problem = ""
    for file in ("nvcuda.dll",) if sys.platform == "win32" else _FILES:
        try:
            return ctypes.CDLL(file)
        except OSError as error:
            problem = problem or str(error)
    raise unusable(problem)


def _declared(library: Any, symbol: str, arguments: Arguments) -> Optional[Any]:
    try:
        function = getattr(library, symbol)
    except AttributeError:
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function
