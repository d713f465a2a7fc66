"""CUDA through both packages, on the simulated device (see tests/simulation)."""

import threading

import numpy as np
import pytest
from simulation import CUDA, simulated

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
    assert cuda.graphs is (package != "pycuda")
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


def test_a_second_stream_waits_for_an_event(device):
    cuda = open_cuda()
    with cuda.current():
        memory = cuda.alloc(8, "a value")
        first, second = cuda.stream(), cuda.stream()
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


def test_neither_package():
    with simulated(cuda=None), pytest.raises(BackendError, match=r"pip install cuda-python, or pycuda on a Jetson"):
        open_cuda()


def test_other_causes():
    assert "does not start (boom)" in str(unusable("boom\nmore"))
    assert "cuda-compat" in str(unusable("CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"))
    assert "do not fit" in str(unusable("libcuda.so.1: undefined symbol: cuMemcpy_v2"))
    assert "a library of CUDA is missing" in str(unusable("libcudart.so.11.0: cannot open shared object file"))


@pytest.mark.parametrize("package", [name for name in CUDA if name != "pycuda"], indirect=True)
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


def test_pycuda_has_no_graphs():
    with simulated(cuda="pycuda"):
        cuda = open_cuda()
        for wrong in (lambda: cuda.capture(None, print), lambda: cuda.launch(None, None)):
            with pytest.raises(BackendError, match="no CUDA graphs"):
                wrong()


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
