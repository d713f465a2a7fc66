"""What counts against the device's memory: on an integrated GPU, what is pinned and what libraries take as well."""

import numpy as np
import pytest

from .. import simulated
from ..device.memory import Fault
from .helpers import pycuda_context


@pytest.mark.parametrize("integrated", [True, False])
def test_pinned_memory_is_the_systems(integrated):
    with simulated(memory=1 << 20, integrated=integrated) as device, pycuda_context() as cuda:
        memory, pinned = cuda.mem_alloc(1), cuda.pagelocked_empty(5000, np.uint8)
        assert device.store.account == {"device": 512, "private": 0, "pinned": 8192, "library": 0}
        taken = 512 + (8192 if integrated else 0)
        assert device.store.used == device.store.peak == taken
        assert cuda.mem_get_info() == ((1 << 20) - taken, 1 << 20)
        memory.free()
        del pinned
        assert device.store.used == 0 and device.store.peak == taken
        if integrated:
            with pytest.raises(cuda.MemoryError, match="cuMemHostAlloc failed: out of memory"):
                cuda.pagelocked_empty((1 << 20) + 1, np.uint8)
        else:
            cuda.pagelocked_empty((1 << 20) + 1, np.uint8)


def test_a_library_is_loaded_once_and_stays():
    with simulated(memory=1 << 20) as device, pycuda_context() as cuda:
        for _ in range(2):
            device.store.load("libcudnn", 1 << 19)
        assert device.store.account["library"] == device.store.used == 1 << 19
        with pytest.raises(Fault, match=r"OUT_OF_MEMORY: 524289 bytes asked for, 524288 are free"):
            device.store.load("libcublas", (1 << 19) + 1)
        device.store.load("libcublas", 1 << 19)
        with pytest.raises(cuda.MemoryError):
            cuda.mem_alloc(1)


def test_a_gpu_of_its_own_memory_does_not_feel_libraries():
    with simulated(memory=1 << 20, integrated=False) as device, pycuda_context() as cuda:
        device.store.load("libcudnn", 1 << 30)
        cuda.mem_alloc(1 << 20).free()
