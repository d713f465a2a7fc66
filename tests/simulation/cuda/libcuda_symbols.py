"""What libcuda.so.1 exports, as far as it is simulated: symbols, since when, and their C prototypes.

From cuda.h and cudaTypedefs.h of CUDA 11.8, 12.6 and 13.0, which give each symbol's first release, and for CUDA 10 from
the bindings cuda-driver-sys. cuda.h hides the versions behind macros: what C calls cuMemAlloc is the symbol
cuMemAlloc_v2, and since 12 cuGraphInstantiate is cuGraphInstantiateWithFlags. The library keeps the older symbols under
their own names, with their own arguments: cuMemAlloc with 32-bit sizes and addresses, cuGraphInstantiate with five.
"""

import ctypes
from typing import Any, NamedTuple

OUT = "out"  # a pointer that the call writes through


class Symbol(NamedTuple):
    """since: the first CUDA, as 10020; arguments: (C type, name); call: the function of cuda_python.py that does it."""

    since: int
    arguments: tuple
    call: str


# C type -> ctypes, as a callback receives it. Handles and pointers are addresses.
TYPES: dict[str, Any] = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "unsigned long long": ctypes.c_ulonglong,
    "unsigned char": ctypes.c_ubyte,
    "size_t": ctypes.c_size_t,
    "CUdevice": ctypes.c_int,
    "CUresult": ctypes.c_int,
    "CUdevice_attribute": ctypes.c_int,
    "CUstreamCaptureMode": ctypes.c_int,
    "CUdeviceptr": ctypes.c_uint64,
    "CUdeviceptr_v1": ctypes.c_uint,
    "CUcontext": ctypes.c_void_p,
    "CUstream": ctypes.c_void_p,
    "CUevent": ctypes.c_void_p,
    "CUgraph": ctypes.c_void_p,
    "CUgraphExec": ctypes.c_void_p,
    "CUgraphNode": ctypes.c_void_p,
}

_PROTOTYPES = """
6000 cuGetErrorName(CUresult error, const char **pStr)
6000 cuGetErrorString(CUresult error, const char **pStr)
2000 cuInit(unsigned int Flags)
2020 cuDriverGetVersion(int *driverVersion)
2000 cuDeviceGetCount(int *count)
2000 cuDeviceGet(CUdevice *device, int ordinal)
2000 cuDeviceGetName(char *name, int len, CUdevice dev)
2000 cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
7000 cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
7000 cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
7000 cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
11000 cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
4000 cuCtxPushCurrent_v2(CUcontext ctx)
4000 cuCtxPopCurrent_v2(CUcontext *pctx)
2000 cuMemGetInfo(unsigned int *free, unsigned int *total)
3020 cuMemGetInfo_v2(size_t *free, size_t *total)
2000 cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize)
3020 cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
2000 cuMemFree(CUdeviceptr_v1 dptr)
3020 cuMemFree_v2(CUdeviceptr dptr)
2020 cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
2000 cuMemFreeHost(void *p)
2020 cuMemHostGetDevicePointer(CUdeviceptr_v1 *pdptr, void *p, unsigned int Flags)
3020 cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
2000 cuMemcpyHtoDAsync(CUdeviceptr_v1 dstDevice, const void *srcHost, unsigned int ByteCount, CUstream hStream)
3020 cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
2000 cuMemcpyDtoHAsync(void *dstHost, CUdeviceptr_v1 srcDevice, unsigned int ByteCount, CUstream hStream)
3020 cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
3000 cuMemcpyDtoDAsync(CUdeviceptr_v1 dstDevice, CUdeviceptr_v1 srcDevice, unsigned int ByteCount, CUstream hStream)
3020 cuMemcpyDtoDAsync_v2(CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
3020 cuMemsetD8Async(CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream)
2000 cuStreamCreate(CUstream *phStream, unsigned int Flags)
4000 cuStreamDestroy_v2(CUstream hStream)
2000 cuStreamSynchronize(CUstream hStream)
3020 cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
2000 cuEventCreate(CUevent *phEvent, unsigned int Flags)
4000 cuEventDestroy_v2(CUevent hEvent)
2000 cuEventRecord(CUevent hEvent, CUstream hStream)
2000 cuEventSynchronize(CUevent hEvent)
2000 cuEventQuery(CUevent hEvent)
10010 cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
10000 cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
10000 cuGraphInstantiate(CUgraphExec *out, CUgraph hGraph, CUgraphNode *node, char *logBuffer, size_t bufferSize)
11040 cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
10000 cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
10000 cuGraphDestroy(CUgraph hGraph)
10000 cuGraphExecDestroy(CUgraphExec hGraphExec)
"""


def _parsed(line):
    since, prototype = line.split(" ", 1)
    symbol, arguments = prototype.rstrip(")").split("(")
    pairs = [_argument(text) for text in arguments.split(", ")]
    return symbol, Symbol(int(since), tuple(pairs), symbol.removesuffix("_v2"))


def _argument(text):
    """(C type, name); what a call writes through is (OUT, C type of what it points to)."""
    kind, name = text.rsplit(" ", 1)
    stars = len(name) - len(name.lstrip("*"))
    if kind == "char" or (kind, stars) in (("void", 1), ("const void", 1)):
        return ("pointer", name.lstrip("*"))
    if kind in ("const char", "void"):
        return (OUT, "pointer")
    return (OUT, kind) if stars else (kind, name)


SYMBOLS = dict(_parsed(line) for line in _PROTOTYPES.strip().splitlines())


def ctype(kind):
    """The ctypes type in which a call receives an argument of this kind."""
    return ctypes.c_void_p if kind in (OUT, "pointer") else TYPES[kind]


def is_old(symbol):
    """Was it replaced by a symbol for 64-bit addresses, in CUDA 3.2?"""
    return SYMBOLS[symbol].since < 3020 and f"{symbol}_v2" in SYMBOLS
