"""cuda-python's driver API on the simulated device: `cuda.bindings.driver`, and `cuda.cuda` before 13.

Signatures, kinds of results and the behaviour without a driver were read off the real bindings 11.8.6, 12.6.2 and
13.0.3, which import without a GPU. What is easy to get wrong, and is imitated:

- Every function returns a tuple: the error code first, then the results, or None for each where it failed.
- Enum arguments must be enum members, not ints (`'int' object has no attribute 'value'`).
- cuMemAlloc gives a CUdeviceptr, which can be neither added to nor used as an index.
- A pointer to host memory is an int or a buffer. A numpy integer has a buffer: its own bytes would be copied.
- Names come back as bytes, cuDeviceGetName's with the zero byte and the blanks behind it.
- cuGraphInstantiate of CUDA 11 wants a log buffer.
- No call makes a context current in a thread by itself.
"""

from functools import wraps
from types import ModuleType

from ..device import codes
from ..device.memory import Fault
from . import cuda_python_types as t
from .cuda_python_types import Binding, handle, member

VERSIONS = {  # version -> names of the module, CUDA_VERSION
    "11.8": (("cuda.cuda",), 11080),
    "12.6": (("cuda.bindings.driver", "cuda.cuda"), 12060),
    "13.0": (("cuda.bindings.driver",), 13000),
}


def gives(count):
    """Mark a function of an API with the number of results behind the error code."""

    def mark(function):
        function.results = count
        return function

    return mark


class Driver(Binding):
    """The driver API. Methods raise Fault or return their results; `install` makes functions of them."""

    def _started(self):
        if not self._device.initialised:
            raise Fault("NOT_INITIALIZED")

    @gives(0)
    def cuInit(self, Flags):
        self._device.check_driver()
        self._device.initialised = True

    @gives(1)
    def cuDriverGetVersion(self):
        return self._version

    @gives(1)
    def cuDeviceGetCount(self):
        self._started()
        return 1

    @gives(1)
    def cuDeviceGet(self, ordinal):
        self._started()
        if ordinal != 0:
            raise Fault("INVALID_DEVICE")
        return t.CUdevice(ordinal)

    @gives(1)
    def cuDeviceGetName(self, length, dev):
        self._started()
        return (self._device.name.encode() + b"\0").ljust(length)[:length]

    @gives(1)
    def cuDeviceGetAttribute(self, attrib, dev):
        self._started()
        return self._attribute(member(attrib, t.CUdevice_attribute), handle(t.CUdevice, dev))

    @gives(2)
    def cuDevicePrimaryCtxGetState(self, dev):
        self._started()
        return self._device.primary_flags, int(self._device.primary is not None)

    @gives(0)
    def cuDevicePrimaryCtxSetFlags(self, dev, flags):
        self._started()
        self._device.set_primary_flags(handle(t.CUdevice, dev), int(flags), self._version)

    @gives(1)
    def cuDevicePrimaryCtxRetain(self, dev):
        self._started()
        return t.CUcontext(self._device.retain_primary().handle)

    def _context(self, ctx):
        self._started()
        primary = self._device.primary
        if primary is None or handle(t.CUcontext, ctx) != primary.handle:
            raise Fault("INVALID_CONTEXT")
        return primary

    @gives(0)
    def cuCtxPushCurrent(self, ctx):
        self._device.stack.append(self._context(ctx))
        self._device.thread.pushed = getattr(self._device.thread, "pushed", 0) + 1

    @gives(1)
    def cuCtxPopCurrent(self):
        if not self._device.stack:
            raise Fault("INVALID_CONTEXT")
        self._device.thread.pushed = max(0, getattr(self._device.thread, "pushed", 0) - 1)
        return t.CUcontext(self._device.stack.pop().handle)

    @gives(1)
    def cuCtxGetCurrent(self):
        self._started()
        return t.CUcontext(self._device.current().handle if self._device.stack else 0)

    @gives(0)
    def cuCtxSynchronize(self):
        self._device.need_context()
        self._timeline.wait_all()

    @gives(1)
    def cuMemAlloc(self, bytesize):
        return t.CUdeviceptr(self._device.allocate(bytesize).address)

    @gives(0)
    def cuMemFree(self, dptr):
        self._device.free(handle(t.CUdeviceptr, dptr))

    @gives(1)
    def cuMemHostAlloc(self, bytesize, Flags):
        return self._device.allocate(bytesize, "pinned", mapped=bool(int(Flags) & 2)).address

    @gives(1)
    def cuMemHostGetDevicePointer(self, p, Flags):
        return t.CUdeviceptr(self._device.mapped_address(p))

    @gives(0)
    def cuMemFreeHost(self, p):
        self._device.free(p, ("pinned",))

    @gives(2)
    def cuMemGetInfo(self):
        return self._device.memory_info()

    @gives(0)
    def cuMemcpyHtoD(self, dstDevice, srcHost, ByteCount):
        self._copy(handle(t.CUdeviceptr, dstDevice), srcHost, ByteCount, "HtoD", self._stream(0), True)

    @gives(0)
    def cuMemcpyDtoH(self, dstHost, srcDevice, ByteCount):
        self._copy(dstHost, handle(t.CUdeviceptr, srcDevice), ByteCount, "DtoH", self._stream(0), True)

    @gives(0)
    def cuMemcpyHtoDAsync(self, dstDevice, srcHost, ByteCount, hStream):
        self._copy(handle(t.CUdeviceptr, dstDevice), srcHost, ByteCount, "HtoD", self._stream(hStream), False)

    @gives(0)
    def cuMemcpyDtoHAsync(self, dstHost, srcDevice, ByteCount, hStream):
        self._copy(dstHost, handle(t.CUdeviceptr, srcDevice), ByteCount, "DtoH", self._stream(hStream), False)

    @gives(0)
    def cuMemcpyDtoDAsync(self, dstDevice, srcDevice, ByteCount, hStream):
        ends = handle(t.CUdeviceptr, dstDevice), handle(t.CUdeviceptr, srcDevice)
        self._copy(*ends, ByteCount, "DtoD", self._stream(hStream), False)

    @gives(0)
    def cuMemsetD8Async(self, dstDevice, uc, N, hStream):
        self._device.fill(handle(t.CUdeviceptr, dstDevice), uc, N, self._stream(hStream))

    @gives(1)
    def cuStreamCreate(self, Flags):
        return t.CUstream(self._device.make_stream(blocking=not int(Flags) & 1).handle)

    @gives(0)
    def cuStreamDestroy(self, hStream):
        self._destroy_stream(hStream)

    @gives(0)
    def cuStreamSynchronize(self, hStream):
        self._timeline.wait_stream(self._stream(hStream))

    @gives(0)
    def cuStreamWaitEvent(self, hStream, hEvent, Flags):
        self._wait(hStream, hEvent)

    @gives(1)
    def cuEventCreate(self, Flags):
        int(Flags)
        return t.CUevent(self._device.make_event().handle)

    @gives(0)
    def cuEventDestroy(self, hEvent):
        self._destroy_event(hEvent)

    @gives(0)
    def cuEventRecord(self, hEvent, hStream):
        self._record(hEvent, hStream)

    @gives(0)
    def cuEventSynchronize(self, hEvent):
        self._timeline.wait_event(self._event(hEvent))

    @gives(0)
    def cuEventQuery(self, hEvent):
        self._ready(self._timeline.has_happened(self._event(hEvent)))

    @gives(0)
    def cuStreamBeginCapture(self, hStream, mode):
        self._begin(hStream, member(mode, t.CUstreamCaptureMode))

    @gives(1)
    def cuStreamEndCapture(self, hStream):
        return t.CUgraph(self._end(hStream))

    @gives(1)
    def cuStreamIsCapturing(self, hStream):
        return t.CUstreamCaptureStatus(self._stream(hStream).capture is not None)

    @gives(1)
    def cuGraphInstantiate(self, hGraph, flags):
        return t.CUgraphExec(self._instantiate(hGraph))

    @gives(0)
    def cuGraphLaunch(self, hGraphExec, hStream):
        self._launch(hGraphExec, hStream)

    @gives(0)
    def cuGraphDestroy(self, hGraph):
        self._drop(t.CUgraph, hGraph)

    @gives(0)
    def cuGraphExecDestroy(self, hGraphExec):
        self._drop(t.CUgraphExec, hGraphExec)

    @gives(1)
    def cuGetErrorName(self, error):
        return t.CUresult(member(error, t.CUresult)).name.encode()

    @gives(1)
    def cuGetErrorString(self, error):
        return error_string(member(error, t.CUresult))


class Driver11(Driver):
    @gives(2)
    def cuGraphInstantiate(self, hGraph, logBuffer, bufferSize):
        if not isinstance(logBuffer, bytes):
            raise TypeError(f"expected bytes, {type(logBuffer).__name__} found")
        return t.CUgraphExec(self._instantiate(hGraph)), t.CUgraphNode(0)

    @gives(1)
    def cuGraphInstantiateWithFlags(self, hGraph, flags):
        return t.CUgraphExec(self._instantiate(hGraph))


def error_string(number):
    return next((value[1] for value in codes.CODES.values() if value[0] == number), "no error").encode()


def install(device, version):
    """The modules by name."""
    names, number = VERSIONS[version]
    t.Handle.by_value = number >= 13000
    modules = {"cuda": ModuleType("cuda")}
    modules["cuda"].__path__ = []
    if number >= 12000:
        modules["cuda.bindings"] = ModuleType("cuda.bindings")
        modules["cuda.bindings"].__path__ = []
    for name in names:
        module = ModuleType(name)
        api = (Driver if number >= 12000 else Driver11)(device, number)
        for public in [n for n in dir(api) if not n.startswith("_")]:
            setattr(module, public, _function(device, getattr(api, public)))
        for key in [k for k in vars(t) if k.startswith("CU")]:
            setattr(module, key, getattr(t, key))
        modules[name] = module
    vars(modules[names[0]])["CUDA_VERSION"] = number
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(modules[parent], own, module)
    return modules


def _function(device, method):
    """A function that returns a tuple with the error code."""

    @wraps(method)
    def call(*args, **kwargs):
        if device.driver == "missing":
            raise RuntimeError("Failed to dlopen libcuda.so.1")
        with device.lock:
            try:
                result = method(*args, **kwargs)
            except Fault as fault:
                return (t.CUresult(codes.number(fault.code)), *[None] * method.results)
        results = {0: (), 1: (result,)}.get(method.results, result)
        return (t.CUresult(0), *results)

    return call
