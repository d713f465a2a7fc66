"""The rules of cuda-python's driver API and of CUDA graphs, each broken once."""

import ctypes
import importlib
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from .. import CUDA, simulated
from .helpers import misuse

VERSIONS = [name.split()[1] for name in CUDA if name.startswith("cuda-python")]


def binding(version):
    return importlib.import_module("cuda.cuda" if version == "11.8" else "cuda.bindings.driver")


def ok(result):
    assert result[0] == 0, result
    return result[1] if len(result) == 2 else result[1:]


@contextmanager
def opened(version="13.0"):
    """The driver API with the primary context pushed."""
    driver = binding(version)
    ok(driver.cuInit(0))
    context = ok(driver.cuDevicePrimaryCtxRetain(ok(driver.cuDeviceGet(0))))
    ok(driver.cuCtxPushCurrent(context))
    yield driver
    ok(driver.cuCtxPopCurrent())


@pytest.fixture(params=VERSIONS)
def driver(request):
    with simulated(cuda=f"cuda-python {request.param}", memory=1 << 20), opened(request.param) as found:
        yield found


def test_results_are_tuples_with_the_error_first(driver):
    CUresult = driver.CUresult
    assert driver.cuMemAlloc(1 << 21) == (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
    assert driver.cuMemAlloc(0) == (CUresult.CUDA_ERROR_INVALID_VALUE, None)
    memory = ok(driver.cuMemAlloc(8))
    assert driver.cuMemGetInfo() == (0, (1 << 20) - 512, 1 << 20)
    assert driver.cuMemFree(memory) == (CUresult.CUDA_SUCCESS,)
    assert driver.cuMemFree(memory) == (CUresult.CUDA_ERROR_INVALID_VALUE,)
    assert driver.cuGetErrorName(CUresult(2)) == (0, b"CUDA_ERROR_OUT_OF_MEMORY")
    assert driver.cuGetErrorString(CUresult(700))[1] == b"an illegal memory access was encountered"


def test_pointers_are_objects_without_arithmetic(driver):
    memory = ok(driver.cuMemAlloc(8))
    assert isinstance(memory, driver.CUdeviceptr) and int(memory) > 0
    with pytest.raises(TypeError):
        memory + 4
    with pytest.raises(AttributeError):
        memory.__index__()
    with pytest.raises(TypeError, match="an integer is required"):
        driver.cuMemFree("x")
    driver.cuMemFree(int(memory))


def test_enums_are_not_ints(driver):
    stream = ok(driver.cuStreamCreate(1))
    for wrong in (lambda: driver.cuDeviceGetAttribute(75, 0), lambda: driver.cuStreamBeginCapture(stream, 0)):
        with pytest.raises(AttributeError, match="'int' object has no attribute 'value'"):
            wrong()
    assert (
        ok(driver.cuDeviceGetAttribute(driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0)) == 8
    )
    ok(driver.cuStreamDestroy(stream))


def test_names_are_bytes_with_what_lay_behind(driver):
    name = ok(driver.cuDeviceGetName(16, 0))
    assert name == b"Orin\0" + b" " * 11


def test_what_changed_with_the_versions():
    for version in VERSIONS:
        with simulated(cuda=f"cuda-python {version}"), opened(version) as driver:
            assert hasattr(driver, "cuGraphInstantiateWithFlags") == (version == "11.8")
            major, minor = version.split(".")
            assert divmod(driver.CUDA_VERSION // 10, 100) == (int(major), int(minor))
            assert (driver.CUstream(5) == driver.CUstream(5)) == (version == "13.0")
            stream = ok(driver.cuStreamCreate(1))
            ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode(1)))
            graph = ok(driver.cuStreamEndCapture(stream))
            if version == "11.8":
                with pytest.raises(TypeError):
                    driver.cuGraphInstantiate(graph, 0)
                made = ok(driver.cuGraphInstantiate(graph, b"", 0))[0]
            else:
                made = ok(driver.cuGraphInstantiate(graph, 0))
            for call, thing in (
                (driver.cuGraphExecDestroy, made),
                (driver.cuGraphDestroy, graph),
                (driver.cuStreamDestroy, stream),
            ):
                ok(call(thing))


def test_without_a_driver():
    for version in VERSIONS:
        with simulated(cuda=f"cuda-python {version}", driver="missing"):
            driver = binding(version)
            with pytest.raises(RuntimeError, match=r"Failed to dlopen libcuda\.so\.1"):
                driver.cuInit(0)


def test_without_a_gpu_or_with_a_wrong_driver():
    with simulated(cuda="cuda-python 13.0", gpu=None):
        driver = binding("13.0")
        assert driver.cuInit(0) == (driver.CUresult.CUDA_ERROR_NO_DEVICE,)
        assert driver.cuDeviceGetCount() == (driver.CUresult.CUDA_ERROR_NOT_INITIALIZED, None)
    with simulated(cuda="cuda-python 13.0", driver="old"):
        driver = binding("13.0")
        assert driver.cuInit(0) == (driver.CUresult.CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,)


def test_no_call_takes_a_context_by_itself():
    with simulated(cuda="cuda-python 13.0"):
        driver = binding("13.0")
        ok(driver.cuInit(0))
        assert driver.cuMemAlloc(4)[0] == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT
        assert driver.cuCtxPopCurrent()[0] == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT


def test_host_pointers_are_ints_or_buffers_and_directions_are_checked():
    with misuse("takes the integer's own bytes", cuda="cuda-python 13.0"), opened() as driver:
        memory, host = ok(driver.cuMemAlloc(8)), np.array([1, 2], np.float32)
        back = np.zeros(2, np.float32)
        for pointer in (host, host.ctypes.data):
            ok(driver.cuMemcpyHtoD(memory, pointer, 8))
            ok(driver.cuMemcpyDtoH(back, memory, 8))
            assert back.tolist() == [1, 2]
        wrong = driver.CUresult.CUDA_ERROR_INVALID_VALUE
        assert driver.cuMemcpyHtoD(memory, int(memory), 8) == (wrong,)
        assert driver.cuMemcpyDtoH(int(memory), memory, 8) == (wrong,)
        number = np.int64(host.ctypes.data)
        ok(driver.cuMemcpyHtoD(memory, number, 8))
        ok(driver.cuMemcpyDtoH(back, memory, 8))
        assert back.view(np.int64)[0] == number  # not what lies there
        ok(driver.cuMemFree(memory))


def test_page_locked_memory_is_an_address_and_reads_as_nan_before_its_event():
    with simulated(cuda="cuda-python 13.0"), opened() as driver:
        memory, stream, event = ok(driver.cuMemAlloc(8)), ok(driver.cuStreamCreate(1)), ok(driver.cuEventCreate(2))
        addresses = [ok(driver.cuMemHostAlloc(8, 0)) for _ in range(2)]
        source, target = (np.frombuffer((ctypes.c_byte * 8).from_address(a), np.float32) for a in addresses)
        source[...] = target[...] = 5
        ok(driver.cuMemcpyHtoDAsync(memory, addresses[0], 8, stream))
        ok(driver.cuMemcpyDtoHAsync(addresses[1], memory, 8, stream))
        ok(driver.cuEventRecord(event, stream))
        assert np.isnan(target).all() and driver.cuEventQuery(event)[0] == driver.CUresult.CUDA_ERROR_NOT_READY
        ok(driver.cuEventSynchronize(event))
        assert target.tolist() == [5, 5]
        # The memory may be the source of one copy and the target of a later one.
        ok(driver.cuMemcpyHtoDAsync(memory, addresses[0], 8, stream))
        ok(driver.cuMemcpyDtoHAsync(addresses[0], memory, 8, stream))
        ok(driver.cuStreamSynchronize(stream))
        assert source.tolist() == [5, 5]
        for address in addresses:
            ok(driver.cuMemFreeHost(address))
        driver.cuMemFree(memory), driver.cuEventDestroy(event), driver.cuStreamDestroy(stream)


# -- graphs


@pytest.fixture
def graphs():
    """(driver, stream, another stream, device memory, page-locked address, capture modes)"""
    with simulated(cuda="cuda-python 13.0"), opened() as driver:
        stream, other = ok(driver.cuStreamCreate(1)), ok(driver.cuStreamCreate(1))
        memory, address = ok(driver.cuMemAlloc(8)), ok(driver.cuMemHostAlloc(8, 0))
        modes = driver.CUstreamCaptureMode
        yield driver, stream, other, memory, address, modes
        driver.cuMemFree(memory), driver.cuMemFreeHost(address)
        driver.cuStreamDestroy(stream), driver.cuStreamDestroy(other)


def test_a_graph_runs_when_it_is_launched_and_each_time(graphs):
    driver, stream, other, memory, address, modes = graphs
    ok(driver.cuStreamBeginCapture(stream, modes.CU_STREAM_CAPTURE_MODE_GLOBAL))
    ok(driver.cuMemsetD8Async(memory, 0, 8, stream))
    ok(driver.cuMemcpyDtoHAsync(address, memory, 8, stream))
    assert ok(driver.cuStreamIsCapturing(stream)) == 1
    graph = ok(driver.cuStreamEndCapture(stream))
    ok(driver.cuStreamSynchronize(stream))
    made = ok(driver.cuGraphInstantiate(graph, 0))
    for _ in range(2):
        ok(driver.cuMemsetD8Async(memory, 1, 8, other))
        ok(driver.cuStreamSynchronize(other))
        ok(driver.cuGraphLaunch(made, other))
        ok(driver.cuStreamSynchronize(other))
    driver.cuGraphExecDestroy(made), driver.cuGraphDestroy(graph)


def test_a_capture_is_spoilt_by_waiting_and_by_allocating(graphs):
    driver, stream, _, _, _, modes = graphs
    errors = driver.CUresult
    for spoil in (lambda: driver.cuStreamSynchronize(stream), driver.cuCtxSynchronize, lambda: driver.cuMemAlloc(4)):
        ok(driver.cuStreamBeginCapture(stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        assert spoil()[0] == errors.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        assert driver.cuStreamEndCapture(stream) == (errors.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None)


@pytest.mark.parametrize("mode, answer", [("GLOBAL", 900), ("THREAD_LOCAL", 0)])
def test_a_global_capture_is_spoilt_by_other_threads(graphs, mode, answer):
    driver, stream, _, _, _, modes = graphs
    context, answers = ok(driver.cuCtxGetCurrent()), []

    def allocate():
        ok(driver.cuCtxPushCurrent(context))
        answers.append(driver.cuMemAlloc(4))

    ok(driver.cuStreamBeginCapture(stream, modes[f"CU_STREAM_CAPTURE_MODE_{mode}"]))
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()
    assert answers[0][0] == answer
    status, graph = driver.cuStreamEndCapture(stream)
    assert status == (901 if answer else 0)
    if not answer:
        driver.cuMemFree(answers[0][1]), driver.cuGraphDestroy(graph)


def test_a_forked_stream_must_be_joined(graphs):
    driver, stream, other, memory, _, modes = graphs
    event, back = ok(driver.cuEventCreate(2)), ok(driver.cuEventCreate(2))
    for joins in (False, True):
        ok(driver.cuStreamBeginCapture(stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        ok(driver.cuEventRecord(event, stream))
        ok(driver.cuStreamWaitEvent(other, event, 0))
        ok(driver.cuMemsetD8Async(memory, 0, 8, other))
        assert driver.cuEventSynchronize(event)[0] == driver.CUresult.CUDA_ERROR_CAPTURED_EVENT
        if joins:
            ok(driver.cuEventRecord(back, other))
            ok(driver.cuStreamWaitEvent(stream, back, 0))
        status, graph = driver.cuStreamEndCapture(stream)
        assert status == (0 if joins else driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNJOINED)
    for call, thing in ((driver.cuGraphDestroy, graph), (driver.cuEventDestroy, event), (driver.cuEventDestroy, back)):
        ok(call(thing))


def test_a_graph_keeps_the_addresses_that_it_captured():
    with misuse("failed when it ran", cuda="cuda-python 13.0"), opened() as driver:
        stream, memory = ok(driver.cuStreamCreate(1)), ok(driver.cuMemAlloc(8))
        ok(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode(1)))
        ok(driver.cuMemsetD8Async(memory, 0, 8, stream))
        made = ok(driver.cuGraphInstantiate(ok(driver.cuStreamEndCapture(stream)), 0))
        ok(driver.cuMemFree(memory))
        ok(driver.cuGraphLaunch(made, stream))
        assert driver.cuStreamSynchronize(stream) == (driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)
