"""Every rule of the simulated memory, streams and contexts is broken once, through pycuda's names."""

import gc
import threading

import numpy as np
import pytest

from .. import simulated
from .helpers import misuse, pycuda_context


def in_thread(function):
    """Run it in a thread of its own; what it raised, or None."""
    caught = []

    def body():
        try:
            function()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return caught[0] if caught else None


# -- starting and contexts


def test_nothing_works_before_init():
    with simulated():
        import pycuda.driver as cuda

        with pytest.raises(cuda.LogicError, match="initialization error"):
            cuda.Device(0)
        with pytest.raises(cuda.LogicError, match="initialization error"):
            cuda.mem_alloc(4)


def test_no_gpu_no_driver_wrong_driver():
    with simulated(gpu=None):
        import pycuda.driver as cuda

        with pytest.raises(cuda.RuntimeError, match="cuInit failed: no CUDA-capable device is detected"):
            cuda.init()
    with simulated(driver="missing"), pytest.raises(ImportError, match=r"libcuda\.so\.1"):
        import pycuda.driver  # noqa: F401
    with simulated(driver="old"):
        import pycuda.driver as cuda

        with pytest.raises(cuda.LogicError, match="system has unsupported display driver"):
            cuda.init()


def test_every_thread_needs_the_context(cuda):
    context = cuda.Context.get_current()
    assert isinstance(in_thread(lambda: cuda.mem_alloc(4)), cuda.LogicError)
    assert isinstance(in_thread(cuda.Stream), cuda.LogicError)
    assert "cannot pop" in str(in_thread(cuda.Context.pop))

    def proper():
        context.push()
        cuda.mem_alloc(4).free()
        context.pop()

    assert in_thread(proper) is None


def test_a_thread_must_pop_before_it_ends():
    with misuse("a thread ended with a context still pushed"), pycuda_context() as cuda:
        in_thread(cuda.Context.get_current().push)
        gc.collect()


def test_the_main_thread_must_pop_too():
    with misuse("a context is still pushed at the end"):
        import pycuda.driver as cuda

        cuda.init()
        cuda.Device(0).retain_primary_context().push()


def test_memory_is_freed_in_its_own_context_only():
    with misuse("lacks its Context: pycuda leaks it", "leak: 4 bytes"), pycuda_context() as cuda:
        memory, context = cuda.mem_alloc(4), cuda.Context.get_current()
        with pytest.warns(UserWarning, match="could not be cleaned up"):
            assert in_thread(memory.free) is None

        def another_object():
            cuda.Device(0).retain_primary_context().push()  # the same CUDA context, another pycuda one
            memory2.free()
            cuda.Context.pop()

        def the_same_object():
            context.push()
            memory3.free()
            context.pop()

        memory2, memory3 = cuda.mem_alloc(4), cuda.mem_alloc(4)
        with pytest.warns(UserWarning, match="could not be cleaned up"):
            assert in_thread(another_object) is None
        assert in_thread(the_same_object) is None


def test_a_destroyed_context_takes_memory_along():
    with misuse("destroyed before 4 bytes"):
        import pycuda.driver as cuda

        cuda.init()
        context = cuda.Device(0).retain_primary_context()
        context.push()
        memory = cuda.mem_alloc(4)
        context.detach()
        with pytest.raises(cuda.LogicError):
            cuda.mem_alloc(4)
        del memory


# -- memory


def test_memory_has_a_limit(cuda):
    first = cuda.mem_alloc(1 << 19)
    with pytest.raises(cuda.MemoryError, match="cuMemAlloc failed: out of memory"):
        cuda.mem_alloc((1 << 19) + 1)
    assert cuda.mem_get_info() == (1 << 19, 1 << 20)
    first.free()
    cuda.mem_alloc(1 << 20).free()


def test_any_allocation_can_be_made_to_fail(device, cuda):
    device.store.fail_at = 1
    cuda.mem_alloc(4).free()
    with pytest.raises(cuda.MemoryError):
        cuda.pagelocked_empty(4, np.float32)
    cuda.mem_alloc(4).free()


def test_an_allocation_of_nothing_fails(cuda):
    with pytest.raises(cuda.LogicError, match="invalid argument"):
        cuda.mem_alloc(0)


def test_what_is_not_freed_is_a_leak():
    left = []
    with misuse("leak: 16 bytes of device memory", "leak: 8 bytes of pinned", "leak: stream"), pycuda_context() as cuda:
        left += [cuda.mem_alloc(16), cuda.pagelocked_empty(2, np.float32), cuda.Stream()]
    left.clear()


def test_memory_is_freed_once(cuda):
    memory = cuda.mem_alloc(4)
    memory.free()
    with pytest.raises(cuda.LogicError, match="device_allocation::free"):
        memory.free()


def test_freed_memory_cannot_be_used(cuda):
    memory, host = cuda.mem_alloc(4), np.zeros(1, np.float32)
    address = int(memory)
    memory.free()
    with pytest.raises(cuda.LogicError, match="after it was freed"):
        cuda.memcpy_htod(address, host)


def test_copies_stay_inside(cuda):
    memory, host = cuda.mem_alloc(8), np.zeros(4, np.float32)
    for call in (lambda: cuda.memcpy_htod(memory, host), lambda: cuda.memcpy_dtoh(host, int(memory) + 4)):
        with pytest.raises(cuda.LogicError, match="exceed 8 bytes"):
            call()
    memory.free()


def test_host_and_device_addresses_are_not_the_same(cuda):
    memory, host = cuda.mem_alloc(8), cuda.pagelocked_empty(2, np.float32)
    with pytest.raises(cuda.LogicError, match="no device address"):
        cuda.memcpy_dtod(memory, host.ctypes.data, 8)
    with pytest.raises(cuda.LogicError, match="no device address"):
        cuda.memcpy_htod(0, host)
    memory.free()


def test_arguments_have_the_types_that_boost_wants(cuda):
    memory, stream, host = cuda.mem_alloc(8), cuda.Stream(), np.zeros(2, np.float32)
    for wrong in (
        lambda: cuda.memcpy_htod(np.int64(int(memory)), host),
        lambda: cuda.memcpy_htod_async(memory, host, stream.handle),
        lambda: cuda.mem_alloc(8.0),
        lambda: stream.wait_for_event(stream),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="contiguous"):
        cuda.memcpy_htod(memory, np.zeros((2, 2), np.float32)[:, 1])
    host.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        cuda.memcpy_dtoh(host, memory)
    memory.free()


def test_fresh_memory_is_garbage(cuda):
    memory, host = cuda.mem_alloc(8), np.zeros(2, np.float32)
    cuda.memcpy_dtoh(host, memory)
    assert np.isnan(host).all() and np.isnan(cuda.pagelocked_empty(2, np.float16)).all()
    memory.free()
