"""cuda-python on the simulated device: `cuda.bindings.driver` and `.runtime`, `cuda.cuda` and `.cudart` before 13.

Signatures, kinds of results and the behaviour without a driver were read off the real bindings 11.8.6, 12.6.2 and
13.0.3, which import without a GPU. What is easy to get wrong, and is imitated:

- Every function returns a tuple: the error code first, then the results, or None for each where it failed.
- Enum arguments must be enum members, not ints (`'int' object has no attribute 'value'`).
- cuMemAlloc gives a CUdeviceptr, which can be neither added to nor used as an index; cudaMalloc gives an int.
- A pointer to host memory is an int or a buffer. A numpy integer has a buffer: its own bytes would be copied.
- Names come back as bytes, cuDeviceGetName's with the zero byte and the blanks behind it.
- cuGraphInstantiate of CUDA 11 wants a log buffer.
- The runtime API makes the primary context current in whatever thread calls it; the driver API never does.
"""

from functools import wraps
from types import ModuleType

from . import codes
from . import cuda_types as t
from .cuda_types import Binding, handle, member
from .memory import Fault

LAYOUTS = {  # version -> names of the modules, CUDA_VERSION
    "11.8": (("cuda.cuda",), ("cuda.cudart",), 11080),
    "12.6": (("cuda.bindings.driver", "cuda.cuda"), ("cuda.bindings.runtime", "cuda.cudart"), 12060),
    "13.0": (("cuda.bindings.driver",), ("cuda.bindings.runtime",), 13000),
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

    @gives(1)
    def cuDeviceTotalMem(self, dev):
        self._started()
        return self._device.memory

    @gives(1)
    def cuDevicePrimaryCtxRetain(self, dev):
        self._started()
        return t.CUcontext(self._device.retain_primary().handle)

    @gives(0)
    def cuDevicePrimaryCtxRelease(self, dev):
        self._device.release_primary()

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

    @gives(0)
    def cuCtxSetCurrent(self, ctx):
        self._device.stack[-1:] = [self._context(ctx)] if handle(t.CUcontext, ctx) else []

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
    def cuMemAllocHost(self, bytesize):
        return self._device.allocate(bytesize, "pinned").address

    @gives(1)
    def cuMemHostAlloc(self, bytesize, Flags):
        return self._device.allocate(bytesize, "pinned").address

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
    def cuStreamQuery(self, hStream):
        stream = self._stream(hStream)
        self._ready(stream.done >= stream.count)

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
    return next((value[2] for value in codes.CODES.values() if value[0] == number), "no error").encode()


def install(device, version):
    """The modules by name."""
    from .cuda_runtime_double import Runtime, Runtime11

    driver_names, runtime_names, number = LAYOUTS[version]
    t.Handle.by_value = number >= 13000
    modules = {"cuda": ModuleType("cuda")}
    modules["cuda"].__path__ = []
    if number >= 12000:
        modules["cuda.bindings"] = ModuleType("cuda.bindings")
        modules["cuda.bindings"].__path__ = []
    kinds = (
        (driver_names, Driver if number >= 12000 else Driver11, t.CUresult, "CU", t.DRIVER_CONSTANTS),
        (runtime_names, Runtime if number >= 12000 else Runtime11, t.cudaError_t, "cuda", t.RUNTIME_CONSTANTS),
    )
    for names, api, errors, prefix, constants in kinds:
        for name in names:
            module = ModuleType(name)
            binding = api(device, number)
            for public in [n for n in dir(api) if not n.startswith("_")]:
                setattr(module, public, _function(device, getattr(binding, public), errors))
            for key in [k for k in vars(t) if k.startswith(prefix)]:
                setattr(module, key, getattr(t, key))
            vars(module).update(constants)
            modules[name] = module
    modules[driver_names[0]].CUDA_VERSION = number
    for name, module in modules.items():
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(modules[parent], own, module)
    return modules


def _function(device, method, errors):
    """A function that returns a tuple with the error code."""
    runtime = errors is t.cudaError_t

    @wraps(method)
    def call(*args, **kwargs):
        if device.driver == "missing":
            if not runtime:
                raise RuntimeError("Failed to dlopen libcuda.so.1")
            if method.__self__._version < 13000:
                raise RuntimeError('Function "cuInit" not found')
        with device.lock:
            try:
                if runtime and not method.__name__.startswith("cudaGetError"):
                    device.use_primary()
                result = method(*args, **kwargs)
            except Fault as fault:
                device.last_fault = str(fault)
                return (errors(codes.number(fault.code)), *[None] * method.results)
        results = {0: (), 1: (result,)}.get(method.results, result)
        return (errors(0), *results)

    return call
