"""The runtime API of the cuda-python double; see cuda_python_double.py. Every call makes the primary context current
in its thread first, as the real library does."""

from . import cuda_types as t
from .cuda_python_double import error_string, gives
from .cuda_types import Binding, member
from .memory import Fault

_COPIES = {1: "HtoD", 2: "DtoH", 3: "DtoD", 4: "any"}


class Runtime(Binding):
    @gives(1)
    def cudaGetDeviceCount(self):
        return 1

    @gives(0)
    def cudaSetDevice(self, device):
        if device != 0:
            raise Fault("INVALID_DEVICE")
        self._device.stack[-1:] = [self._device.primary or self._device.retain_primary()]

    @gives(1)
    def cudaGetDevice(self):
        return 0

    @gives(1)
    def cudaDriverGetVersion(self):
        return self._version

    @gives(1)
    def cudaRuntimeGetVersion(self):
        return self._version

    @gives(1)
    def cudaGetDeviceProperties(self, device):
        return self._properties()

    @gives(1)
    def cudaDeviceGetAttribute(self, attr, device):
        return self._attribute(member(attr, t.cudaDeviceAttr), device)

    @gives(0)
    def cudaDeviceSynchronize(self):
        self._timeline.wait_all()

    @gives(2)
    def cudaMemGetInfo(self):
        return self._device.memory_info()

    @gives(1)
    def cudaMalloc(self, size):
        return self._device.allocate(size).address if size else 0

    @gives(0)
    def cudaFree(self, devPtr):
        if int(devPtr or 0):
            self._device.free(int(devPtr))

    @gives(1)
    def cudaMallocHost(self, size):
        return self._device.allocate(size, "pinned").address

    @gives(1)
    def cudaHostAlloc(self, size, flags):
        return self._device.allocate(size, "pinned").address

    @gives(0)
    def cudaFreeHost(self, ptr):
        if ptr:
            self._device.free(ptr, ("pinned",))

    @gives(0)
    def cudaMemcpy(self, dst, src, count, kind):
        self._copy(dst, src, count, _COPIES.get(member(kind, t.cudaMemcpyKind)), self._stream(0), True)

    @gives(0)
    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        self._copy(dst, src, count, _COPIES.get(member(kind, t.cudaMemcpyKind)), self._stream(stream), False)

    @gives(0)
    def cudaMemsetAsync(self, devPtr, value, count, stream):
        self._device.fill(int(devPtr), value, count, self._stream(stream))

    @gives(1)
    def cudaStreamCreate(self):
        return t.cudaStream_t(self._device.make_stream().handle)

    @gives(1)
    def cudaStreamCreateWithFlags(self, flags):
        return t.cudaStream_t(self._device.make_stream(blocking=not int(flags) & 1).handle)

    @gives(0)
    def cudaStreamDestroy(self, stream):
        self._destroy_stream(stream)

    @gives(0)
    def cudaStreamSynchronize(self, stream):
        self._timeline.wait_stream(self._stream(stream))

    @gives(0)
    def cudaStreamQuery(self, stream):
        found = self._stream(stream)
        self._ready(found.done >= found.count)

    @gives(0)
    def cudaStreamWaitEvent(self, stream, event, flags):
        self._wait(stream, event)

    @gives(1)
    def cudaEventCreate(self):
        return t.cudaEvent_t(self._device.make_event().handle)

    @gives(1)
    def cudaEventCreateWithFlags(self, flags):
        int(flags)
        return t.cudaEvent_t(self._device.make_event().handle)

    @gives(0)
    def cudaEventDestroy(self, event):
        self._destroy_event(event)

    @gives(0)
    def cudaEventRecord(self, event, stream):
        self._record(event, stream)

    @gives(0)
    def cudaEventSynchronize(self, event):
        self._timeline.wait_event(self._event(event))

    @gives(0)
    def cudaEventQuery(self, event):
        self._ready(self._timeline.has_happened(self._event(event)))

    @gives(0)
    def cudaStreamBeginCapture(self, stream, mode):
        self._begin(stream, member(mode, t.cudaStreamCaptureMode))

    @gives(1)
    def cudaStreamEndCapture(self, stream):
        return t.cudaGraph_t(self._end(stream))

    @gives(1)
    def cudaStreamIsCapturing(self, stream):
        return t.cudaStreamCaptureStatus(self._stream(stream).capture is not None)

    @gives(1)
    def cudaGraphInstantiate(self, graph, flags):
        return t.cudaGraphExec_t(self._instantiate(graph))

    @gives(1)
    def cudaGraphInstantiateWithFlags(self, graph, flags):
        return t.cudaGraphExec_t(self._instantiate(graph))

    @gives(0)
    def cudaGraphLaunch(self, graphExec, stream):
        self._launch(graphExec, stream)

    @gives(0)
    def cudaGraphDestroy(self, graph):
        self._drop(t.CUgraph, graph)

    @gives(0)
    def cudaGraphExecDestroy(self, graphExec):
        self._drop(t.CUgraphExec, graphExec)

    @gives(1)
    def cudaGetErrorName(self, error):
        return t.cudaError_t(member(error, t.cudaError_t)).name.encode()

    @gives(1)
    def cudaGetErrorString(self, error):
        return error_string(member(error, t.cudaError_t))

    @gives(0)
    def cudaGetLastError(self):
        pass


class Runtime11(Runtime):
    @gives(2)
    def cudaGraphInstantiate(self, graph, pLogBuffer, bufferSize):
        if not isinstance(pLogBuffer, bytes):
            raise TypeError(f"expected bytes, {type(pLogBuffer).__name__} found")
        return t.cudaGraphExec_t(self._instantiate(graph)), t.CUgraphNode(0)
