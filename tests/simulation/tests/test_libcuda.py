"""The rules of libcuda through ctypes, each broken once: what a wrong declaration does, and what a driver lacks."""

import ctypes
from contextlib import contextmanager

import pytest

from .. import CUDA, simulated
from ..cuda.libcuda_symbols import OUT, SYMBOLS, ctype
from .helpers import misuse

VERSIONS = [name.split()[1] for name in CUDA if name.startswith("libcuda")]
FILE = "libcuda.so.1"


def declared(library, symbol):
    """A symbol, declared as the header has it."""
    function = getattr(library, symbol)
    function.argtypes = [
        ctypes.POINTER(ctype(name)) if kind == OUT else ctype(kind) for kind, name in SYMBOLS[symbol].arguments
    ]
    return function


def call(library, symbol, *arguments):
    return declared(library, symbol)(*arguments)


def made(library, symbol, *arguments, kind=ctypes.c_void_p):
    """What a call writes through its first argument."""
    result = kind()
    assert call(library, symbol, ctypes.byref(result), *arguments) == 0
    return result.value


@contextmanager
def opened():
    """The library with the primary context pushed."""
    library = ctypes.CDLL(FILE)
    assert call(library, "cuInit", 0) == 0
    device = made(library, "cuDeviceGet", 0, kind=ctypes.c_int)
    assert call(library, "cuCtxPushCurrent_v2", made(library, "cuDevicePrimaryCtxRetain", device)) == 0
    yield library
    made(library, "cuCtxPopCurrent_v2")


@pytest.fixture(params=VERSIONS)
def library(request):
    with simulated(cuda=f"libcuda {request.param}", memory=1 << 20), opened() as found:
        yield found


def test_memory_streams_and_graphs_through_pointers(library):
    memory, stream = made(library, "cuMemAlloc_v2", 8, kind=ctypes.c_uint64), made(library, "cuStreamCreate", 1)
    assert memory >> 32 and stream >> 32  # what 32 bits cannot hold
    there = made(library, "cuMemHostAlloc", 8, 2)
    assert call(library, "cuStreamBeginCapture_v2", stream, 1) == 0
    assert call(library, "cuMemsetD8Async", memory, 0, 8, stream) == 0
    assert call(library, "cuMemcpyDtoHAsync_v2", there, memory, 8, stream) == 0
    graph, run, node = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    assert call(library, "cuStreamEndCapture", stream, ctypes.byref(graph)) == 0
    if hasattr(library, "cuGraphInstantiateWithFlags"):
        assert call(library, "cuGraphInstantiateWithFlags", ctypes.byref(run), graph, 0) == 0
        declared(library, "cuGraphExecDestroy")(run)
    assert call(library, "cuGraphInstantiate", ctypes.byref(run), graph, ctypes.byref(node), None, 0) == 0
    assert call(library, "cuGraphLaunch", run, stream) == 0 == call(library, "cuStreamSynchronize", stream)
    assert bytes((ctypes.c_ubyte * 8).from_address(there)) == bytes(8)
    address = made(library, "cuMemHostGetDevicePointer_v2", there, 0, kind=ctypes.c_uint64)
    assert address not in (0, there)
    for symbol, thing in (
        ("cuGraphExecDestroy", run),
        ("cuGraphDestroy", graph),
        ("cuMemFree_v2", memory),
        ("cuMemFreeHost", there),
        ("cuStreamDestroy_v2", stream),
    ):
        assert call(library, symbol, thing) == 0
    assert call(library, "cuMemFree_v2", memory) == 1 == call(library, "cuMemFreeHost", there)
    assert call(library, "cuStreamDestroy_v2", stream) == 400


def test_a_context_is_needed_and_what_is_gone_is_no_event(library):
    event, stream = made(library, "cuEventCreate", 2), made(library, "cuStreamCreate", 1)
    assert call(library, "cuEventRecord", event, stream) == 0 == call(library, "cuEventDestroy_v2", event)
    assert call(library, "cuEventDestroy_v2", event) == 400 == call(library, "cuEventSynchronize", event)
    assert call(library, "cuEventRecord", event, stream) == 400
    assert call(library, "cuStreamDestroy_v2", stream) == 0
    context = made(library, "cuCtxPopCurrent_v2")
    assert call(library, "cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p())) == 201
    assert call(library, "cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 8) == 201
    assert call(library, "cuCtxPushCurrent_v2", context + 1) == 201
    assert call(library, "cuCtxPushCurrent_v2", context) == 0


def test_statuses_are_numbers_and_texts_stay(library):
    assert call(library, "cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 1 << 21) == 2
    assert call(library, "cuMemAlloc_v2", None, 8) == 1
    name, text = ctypes.c_char_p(), ctypes.c_char_p()
    function = library.cuGetErrorName
    function.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))
    assert function(2, ctypes.byref(name)) == 0 and function(700, ctypes.byref(text)) == 0
    assert (name.value, text.value) == (b"CUDA_ERROR_OUT_OF_MEMORY", b"CUDA_ERROR_ILLEGAL_ADDRESS")
    assert function(12345, ctypes.byref(name)) == 1
    buffer = ctypes.create_string_buffer(b"xxxxxxxx", 8)
    assert call(library, "cuDeviceGetName", ctypes.addressof(buffer), 3, 0) == 0
    assert buffer.raw == b"Orixxxxx"


def test_symbols_come_with_the_releases():
    found = {}
    for version in VERSIONS:
        with simulated(cuda=f"libcuda {version}"):
            library = ctypes.CDLL(FILE)
            with pytest.raises(AttributeError, match=r"libcuda\.so\.1: undefined symbol: cuNothing"):
                _ = library.cuNothing
            names = ("cuDevicePrimaryCtxSetFlags_v2", "cuGraphInstantiateWithFlags")
            found[version] = [hasattr(library, name) for name in names]
            if version != "10.2":
                continue
            with opened():
                assert call(library, "cuDevicePrimaryCtxSetFlags", 0, 1) == 708  # in use
    assert found == {"10.2": [False, False], "11.4": [True, True], "12.6": [True, True], "13.0": [True, True]}


def test_the_library_is_where_it_is():
    with simulated(cuda="libcuda 13.0", files=("/somewhere/libcuda.so.1",)):
        with pytest.raises(OSError, match=r"libcuda\.so\.1: cannot open shared object file"):
            ctypes.CDLL(FILE)
        assert ctypes.CDLL("/somewhere/libcuda.so.1")._handle
    for gone in ({"cuda": None}, {"cuda": "libcuda 13.0", "driver": "missing"}):
        with simulated(**gone), pytest.raises(OSError, match="cannot open"):
            ctypes.CDLL(FILE)
    assert ctypes.CDLL(None)._handle is not None  # of this process, as ever


def test_without_a_gpu_or_with_a_wrong_driver():
    for machine, status in (({"gpu": None}, 100), ({"driver": "old"}, 803)):
        with simulated(cuda="libcuda 13.0", **machine):
            assert call(ctypes.CDLL(FILE), "cuInit", 0) == status


def test_addresses_are_cut_without_argtypes():
    with misuse("cuMemFree_v2 was called without argtypes", cuda="libcuda 13.0"), opened() as library:
        memory = made(library, "cuMemAlloc_v2", 8, kind=ctypes.c_uint64)
        assert library.cuMemFree_v2(memory) == 1
        assert call(library, "cuMemFree_v2", memory) == 0


@pytest.mark.parametrize(
    "argtypes, arguments, words",
    [
        ((ctypes.c_uint,), (8,), "cuMemFree_v2: CUdeviceptr dptr was declared as c_uint"),
        ((ctypes.c_uint64, ctypes.c_int), (8, 0), "takes 1 arguments: 2 declared, 2 given"),
        ((ctypes.POINTER(ctypes.c_uint64),), (ctypes.c_uint64(8),), "CUdeviceptr dptr was declared as LP_c_ulong"),
    ],
)
def test_declarations_are_the_headers(argtypes, arguments, words):
    with misuse(words, cuda="libcuda 13.0"), opened() as library:
        library.cuMemFree_v2.argtypes = argtypes
        library.cuMemFree_v2(*arguments)


@pytest.mark.parametrize("kind", [ctypes.c_uint, ctypes.c_void_p])
def test_results_are_written_to_what_holds_them(kind):
    with misuse("cuMemAlloc_v2: out CUdeviceptr was declared as", cuda="libcuda 13.0"), opened() as library:
        room = (kind * 2)()
        library.cuMemAlloc_v2.argtypes = (ctypes.POINTER(kind), ctypes.c_size_t)
        assert library.cuMemAlloc_v2(room, 8) == 0
        call(library, "cuMemFree_v2", int.from_bytes(bytes(room)[:8], "little"))


def test_a_status_is_an_int():
    with misuse("cuInit returns an int", cuda="libcuda 13.0"):
        function = declared(ctypes.CDLL(FILE), "cuInit")
        function.restype = None
        function(0)


def test_the_symbols_of_cuda_2():
    words = "cuMemAlloc takes 32-bit addresses: cuda.h calls cuMemAlloc_v2"
    with misuse(words, cuda="libcuda 13.0") as device, opened() as library:
        memory = made(library, "cuMemAlloc", 8, kind=ctypes.c_uint)
        assert call(library, "cuMemFree_v2", memory) == 1  # its upper half is lost
        (left,) = device.store.alive()
        assert call(library, "cuMemFree_v2", left.address) == 0


def test_what_the_double_cannot_do_is_not_swallowed(monkeypatch):
    with simulated(cuda="libcuda 13.0") as device:

        def broken():
            raise NotImplementedError("on purpose")

        monkeypatch.setattr(device, "check_driver", broken)
        with pytest.raises(NotImplementedError, match="on purpose"):
            call(ctypes.CDLL(FILE), "cuInit", 0)
