"""CUDA through both packages and through libcuda alone, on the simulated device (see tests/simulation)."""

import threading

import numpy as np
import pytest
from simulation import CUDA, simulated
from simulation.cuda import libcuda_symbols
from simulation.device.memory import Fault

from da3.runtime.cuda import ctypes_driver, interface, opening
from da3.runtime.cuda.interface import host
from da3.runtime.cuda.messages import driver_text, unusable
from da3.runtime.cuda.opening import open_cuda
from da3.runtime.errors import BackendError
from da3.runtime.system.sizes import render_bytes


@pytest.fixture(params=CUDA)
def package(request):
    return request.param


@pytest.fixture
def device(package):
    with simulated(cuda=package) as device:
        yield device


def test_the_gpu_is_described(device, package):
    cuda = open_cuda()
    assert (cuda.gpu.name, cuda.gpu.sm) == ("Orin", 87)
    assert cuda.name.split()[0] == package.split()[0]
    assert cuda.graphs and cuda.gpu.integrated
    with cuda.current():
        free, total = cuda.memory()
    assert 0 < free <= total == device.memory


def test_memory_goes_there_and_back(device):
    cuda = open_cuda()
    with cuda.current():
        one, two = cuda.alloc(64, "one"), cuda.alloc(64, "two")
        assert one % 256 == two % 256 == 0
        stream = cuda.stream()
        there, back = cuda.pinned((2, 3), np.float32), cuda.pinned((6,), np.float32)
        assert not there.array.any() and there.nbytes == 24
        there.array[...] = np.arange(6).reshape(2, 3)
        cuda.zero(two, 64, stream)
        cuda.to_device(one, there, stream)
        cuda.copy(two + 4, one, 16, stream)
        cuda.to_host(back, two, stream)
        cuda.wait(stream)
        assert back.array.tolist() == [0, 0, 1, 2, 3, 0]
        own = np.zeros(6, np.float32)
        cuda.to_host(host(own), one, stream)
        cuda.wait(stream)
        assert own.tolist() == list(range(6))
        let_go(cuda, [stream], [there, back], [one, two])


def test_memory_that_the_device_reaches_by_itself(device):
    cuda = open_cuda()
    with cuda.current():
        stream, memory = cuda.stream(), cuda.alloc(16, "numbers")
        there, seen = cuda.pinned((4,), np.float32), cuda.pinned((4,), np.float32)
        address = cuda.device_address(seen)
        assert address % 256 == 0
        there.array[...] = (1, 2, 3, 4)
        cuda.to_device(memory, there, stream)
        cuda.copy(address, memory, 16, stream)
        cuda.copy(memory, address + 4, 8, stream)
        cuda.to_host(there, memory, stream)
        cuda.wait(stream)
        assert seen.array.tolist() == [1, 2, 3, 4] and there.array.tolist() == [2, 3, 3, 4]
        for unmapped in device.store.alive():
            unmapped.device_address = None
        assert cuda.device_address(seen) is None
        let_go(cuda, [stream], [there, seen], [memory])


def test_what_an_integrated_gpu_can_have_is_what_the_system_can_give(package, monkeypatch):
    for integrated, system, expected in (
        (True, 700 << 20, 700 << 20),  # the page cache makes room
        (True, 2 << 30, 1 << 30),
        (True, 100 << 20, 1 << 29),
        (True, None, 1 << 29),
        (False, 700 << 20, 1 << 29),
    ):
        monkeypatch.setattr(interface, "available_bytes", lambda system=system: system)
        with simulated(cuda=package, memory=1 << 30, integrated=integrated) as device:
            cuda = open_cuda()
            assert cuda.gpu.integrated is integrated
            with cuda.current():
                device.store.load("of the system", 1 << 29) if integrated else None
                kept = None if integrated else cuda.alloc(1 << 29, "half of it")
                assert cuda.available() == expected
                if kept:
                    cuda.free(kept)


def test_a_second_stream_waits_for_an_event(device):
    cuda = open_cuda()
    with cuda.current():
        memory = cuda.alloc(8, "a value")
        first, second = cuda.stream(), cuda.stream()
        assert [stream.blocking for stream in device.timeline.streams.values() if stream.handle] == [False, False]
        assert cuda.address(first) != cuda.address(second)
        there, back = cuda.pinned((2,), np.float32), cuda.pinned((2,), np.float32)
        written, copied = cuda.event(), cuda.event()
        there.array[...] = (3, 4)
        cuda.to_device(memory, there, first)
        cuda.record(written, first)
        cuda.stream_waits(second, written)
        cuda.to_host(back, memory, second)
        cuda.record(copied, second)
        cuda.wait_event(copied)
        assert back.array.tolist() == [3, 4]
        let_go(cuda, [first, second, written, copied], [there, back], [memory])


def test_threads_share_the_context(device):
    cuda = open_cuda()
    failed = []

    def use():
        try:
            with cuda.current(), cuda.current():
                memory = cuda.alloc(100, "a thread")
                cuda.free(memory)
            with pytest.raises(BackendError):
                cuda.memory()  # popped again
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with cuda.current():  # made here, freed elsewhere: pycuda looks at who does what
        memory, stream, event = cuda.alloc(100, "this thread"), cuda.stream(), cuda.event()
    thread = threading.Thread(target=lambda: in_context(cuda, lambda: let_go(cuda, [stream, event], [], [memory])))
    thread.start()
    thread.join()


def test_too_little_memory(package):
    with simulated(cuda=package, memory=1 << 20):
        cuda = open_cuda()
        with cuda.current():
            kept = cuda.alloc(1 << 19, "what fits")
            with pytest.raises(BackendError, match=r"too small for a run of 8 images: 3.0 MiB asked for, 512 KiB of"):
                cuda.alloc(3 << 20, "a run of 8 images")
            cuda.free(kept)


def test_errors_are_ours(device):
    cuda = open_cuda()
    with cuda.current():
        stream = cuda.stream()
        for wrong in (
            lambda: cuda.copy(1, 2, 3, stream),
            lambda: cuda.to_device(5, host(np.zeros(1)), stream),
            lambda: cuda.to_host(host(np.zeros(1)), 5, stream),
        ):
            with pytest.raises(BackendError, match="CUDA could not copy"):
                wrong()
        cuda.destroy(stream)
    device.errors.clear()


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({"driver": "missing"}, ("no NVIDIA driver", "libcuda")),
        ({"driver": "old"}, ("do not fit each other", "update the driver")),
        ({"gpu": None}, ("sees no GPU", "CUDA_VISIBLE_DEVICES")),
    ],
    ids=["no driver", "wrong driver", "no GPU"],
)
def test_what_is_wrong_is_said(package, here, words):
    with simulated(cuda=package, **here), pytest.raises(BackendError) as error:
        open_cuda()
    assert all(word in str(error.value) for word in words)
    assert str(error.value).endswith("or run on the CPU with --backend onnxruntime")


def test_no_way_to_cuda():
    words = r"no NVIDIA driver is installed here \(libcuda\.so\.1: cannot open shared object file"
    with simulated(cuda=None), pytest.raises(BackendError, match=words):
        open_cuda()


TEGRA = "/usr/lib/aarch64-linux-gnu/tegra/"


@pytest.mark.parametrize("file", ["libcuda.so.1", TEGRA + "libcuda.so.1", TEGRA + "libcuda.so"])
def test_where_the_drivers_library_is_looked_for(file):
    with simulated(cuda="libcuda 10.2", files=(file,)):
        assert open_cuda().name == "libcuda by ctypes"


def test_a_package_goes_first_and_a_variable_decides(monkeypatch):
    for package in ("pycuda", "cuda-python 13.0", "libcuda 13.0"):
        with simulated(cuda=package):
            assert open_cuda().name.split()[0] == package.split()[0]
            monkeypatch.setenv("DA3_CUDA", "libcuda")
            assert open_cuda().name == "libcuda by ctypes"
            monkeypatch.setenv("DA3_CUDA", "cuda")
            with pytest.raises(BackendError, match="DA3_CUDA=cuda: take one of cuda-python, pycuda, libcuda, "):
                open_cuda()
            monkeypatch.delenv("DA3_CUDA")
    monkeypatch.setenv("DA3_CUDA", "pycuda")
    with simulated(cuda="libcuda 13.0"), pytest.raises(BackendError, match="DA3_CUDA=pycuda, and pycuda is not inst"):
        open_cuda()


def test_a_package_that_does_not_work_is_not_needed(monkeypatch):
    with simulated(cuda="pycuda"):
        import pycuda.driver

        def init():
            raise pycuda.driver.LogicError("cuInit failed: this pycuda was made for another driver")

        monkeypatch.setattr(pycuda.driver, "init", init)
        assert open_cuda().name == "libcuda by ctypes"


def test_a_driver_without_a_symbol(monkeypatch):
    monkeypatch.setitem(libcuda_symbols.SYMBOLS, "cuMemAlloc_v2", libcuda_symbols.Symbol(14000, (), ""))
    with simulated(cuda="libcuda 13.0"), pytest.raises(BackendError, match=r"fit each other \(libcuda: undefined sy"):
        open_cuda()


def test_errors_have_the_drivers_own_words():
    with simulated(cuda="libcuda 10.2"):
        cuda = open_cuda()
        with cuda.current(), pytest.raises(BackendError) as error:
            cuda.free(5)
        assert str(error.value) == "CUDA could not free memory: CUDA_ERROR_INVALID_VALUE: invalid argument"
        with cuda.current(), pytest.raises(BackendError, match="CUDA could not finish: CUDA error 12345"):
            cuda._driver.check("finish", 12345)


# -- how the host waits


@pytest.mark.parametrize(
    "integrated, word, flags",
    [(True, None, 2), (False, None, 0), (True, "auto", 0), (True, "spin", 1), (True, "block", 4), (False, "yield", 2)],
)
def test_how_the_host_waits(package, monkeypatch, integrated, word, flags):
    monkeypatch.setenv("DA3_CUDA_WAIT", word or "")
    with simulated(cuda=package, integrated=integrated) as device:
        device.primary_flags = 8  # CU_CTX_MAP_HOST, of somebody else
        open_cuda()
        assert device.primary_flags == 8 + flags


def test_the_context_is_retained_once_a_process(device):
    first, second = open_cuda(), open_cuda()
    assert device.retained == 1
    with first.current(), second.current():
        first.free(first.alloc(8, "both"))


def test_room_for_openmp_is_taken_before_a_driver_is_looked_for(monkeypatch):
    loaded = []
    monkeypatch.setattr(opening, "reserve_openmp", lambda: loaded.append("libgomp"))
    monkeypatch.setattr(ctypes_driver, "Driver", lambda: loaded.append("libcuda"))
    with simulated(cuda="libcuda 10.2"), pytest.raises(AttributeError):
        open_cuda()
    assert loaded == ["libgomp", "libcuda"]


def test_a_context_in_use_waits_as_whoever_made_it_chose(package):
    with simulated(cuda=package) as device:
        device.retain_primary()
        open_cuda()
        assert device.primary_flags == 0


def test_a_driver_that_refuses_is_left_alone(package):
    with simulated(cuda=package) as device:

        def refuse(*_):
            raise Fault("INVALID_VALUE", "a Tegra may")

        device.set_primary_flags = refuse
        assert open_cuda().gpu.sm == 87


def test_a_way_to_wait_that_is_none(package, monkeypatch):
    monkeypatch.setenv("DA3_CUDA_WAIT", "sleep")
    words = "DA3_CUDA_WAIT=sleep: take one of auto, spin, yield, block"
    with simulated(cuda=package), pytest.raises(BackendError, match=words):
        open_cuda()


def test_other_causes():
    assert "does not start (boom)" in str(unusable("boom\nmore"))
    assert "cuda-compat" in str(unusable("CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"))
    assert "do not fit" in str(unusable("libcuda.so.1: undefined symbol: cuMemcpy_v2"))
    assert "a library of CUDA is missing" in str(unusable("libcudart.so.11.0: cannot open shared object file"))


def test_a_graph_repeats_what_was_recorded(device):
    cuda = open_cuda()
    with cuda.current():
        one, two = cuda.alloc(8, "one"), cuda.alloc(8, "two")
        stream = cuda.stream()
        there, back = cuda.pinned((2,), np.float32), cuda.pinned((2,), np.float32)
        graph = cuda.capture(stream, lambda: cuda.copy(two, one, 8, stream))
        for value in (1, 2):
            there.array[...] = value
            cuda.to_device(one, there, stream)
            cuda.launch(graph, stream)
            cuda.to_host(back, two, stream)
            cuda.wait(stream)
            assert back.array.tolist() == [value, value]
        cuda.drop(graph)

        def fails():
            cuda.copy(two, one, 8, stream)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            cuda.capture(stream, fails)
        cuda.copy(two, one, 8, stream)  # the stream is itself again
        cuda.wait(stream)
        let_go(cuda, [stream], [there, back], [one, two])


def test_another_thread_may_reserve_memory_while_a_graph_is_recorded(device):
    cuda = open_cuda()
    with cuda.current():
        stream, memory = cuda.stream(), cuda.alloc(8, "cleared")

        def work():
            cuda.zero(memory, 8, stream)
            thread = threading.Thread(target=lambda: in_context(cuda, lambda: cuda.free(cuda.alloc(8, "a thread"))))
            thread.start()
            thread.join()

        made = device.store.made
        cuda.drop(cuda.capture(stream, work))
        assert device.store.made == made + 1
        let_go(cuda, [stream], [], [memory])


def test_pycuda_has_no_graphs_where_the_library_is_not_found():
    with simulated(cuda="pycuda", files=()):
        cuda = open_cuda()
        assert cuda.name.startswith("pycuda") and not cuda.graphs
        for wrong in (lambda: cuda.capture(None, print), lambda: cuda.launch(None, None)):
            with pytest.raises(BackendError, match="no CUDA graphs"):
                wrong()


def test_graphs_are_made_in_the_way_that_the_driver_has(monkeypatch):
    """CUDA 10.2 and 11 up to 11.3 have the call with five arguments alone."""
    for version, symbol in (("10.2", "cuGraphInstantiate"), ("11.4", "cuGraphInstantiateWithFlags")):
        with simulated(cuda=f"libcuda {version}") as device:
            cuda = open_cuda()
            with cuda.current():
                stream = cuda.stream()
                other = {"cuGraphInstantiate", "cuGraphInstantiateWithFlags"} - {symbol}
                setattr(cuda._call, other.pop(), None)
                cuda.drop(cuda.capture(stream, lambda: None))
                cuda.destroy(stream)
            assert not device.executables


def test_numbers_for_people():
    assert [render_bytes(n) for n in (15 << 29, 3 << 19, 1500, 0)] == ["7.5 GiB", "1.5 MiB", "2 KiB", "0 KiB"]
    assert (driver_text(12040), driver_text(10020)) == ("12.4", "10.2")


def in_context(cuda, work):
    with cuda.current():
        work()


def let_go(cuda, handles, pinned, memory):
    for handle in handles:
        cuda.destroy(handle)
    for block in pinned:
        cuda.unpin(block)
    for pointer in memory:
        cuda.free(pointer)
