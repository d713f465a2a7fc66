"""TensorRT and CUDA, simulated: see README.md.

    with simulated(tensorrt="8.2.1", cuda="pycuda", gpu="Orin", sm=87, memory=8 << 30) as device:
        ...  # import tensorrt and pycuda.driver give the doubles, and ctypes.CDLL that of libcuda

This is a simulation. It says whether a program uses the libraries as their documentation demands, not how they run.
"""

import ctypes
import gc
import sys
from contextlib import contextmanager

from .cuda import cuda_python, libcuda, pycuda_contexts, pycuda_driver
from .device.device import Device
from .not_simulated import NotSimulated
from .tensorrt import module as tensorrt_module
from .tensorrt.api import RELEASES
from .tensorrt.types import Crash

__all__ = ["CUDA", "RELEASES", "Crash", "Device", "NotSimulated", "simulated"]

_on: list[Device] = []
PACKAGES = ("tensorrt", "pycuda", "cuda")
CUDA = (
    "pycuda",
    *(f"cuda-python {version}" for version in cuda_python.VERSIONS),
    *(f"libcuda {version}" for version in libcuda.VERSIONS),
)


@contextmanager
def simulated(
    tensorrt="10.16.1",
    cuda="pycuda",
    gpu="Orin",
    sm=87,
    memory=8 << 30,
    driver="present",
    integrated=True,
    files=("libcuda.so.1",),
    leaks=True,
):
    """Put the doubles in sys.modules and in the place of `ctypes.CDLL`, yield the device, and take them out again.

    tensorrt: a release, None: not installed. cuda: one of CUDA; "libcuda": neither package is installed, None: nor is a
    driver. gpu: None: there is none. driver: "present", "missing" (no libcuda) or "old" (does not fit). integrated: the
    GPU works in the system's memory. files: the names under which libcuda can be loaded. At the end, whatever was
    recorded in `device.errors` is an AssertionError, and so is what was left behind, unless `leaks` is False.
    """
    if _on:
        raise RuntimeError("one simulation at a time")
    device = Device(gpu, sm, memory, driver, integrated)
    modules = {} if tensorrt is None else tensorrt_module.install(device, tensorrt)
    broken = {}
    if cuda == "pycuda":
        modules.update(pycuda_driver.install(device))
        if driver == "missing":
            del modules["pycuda.driver"]
            broken["pycuda.driver"] = "libcuda.so.1: cannot open shared object file: No such file or directory"
    elif cuda is not None and cuda.startswith("cuda-python"):
        modules.update(cuda_python.install(device, cuda.split()[1]))
    load = libcuda.loader(_library(device, cuda), files, ctypes.CDLL)
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES}
    for name in before:
        del sys.modules[name]
    finder = _Finder(broken)
    sys.meta_path.insert(0, finder)
    sys.modules.update(modules)
    real, ctypes.CDLL = ctypes.CDLL, load  # type: ignore[misc]
    _on.append(device)
    failed = True
    try:
        yield device
        failed = False
    finally:
        if leaks and device.left():  # nothing is a leak that only waits for the garbage collector
            gc.collect()
        if cuda == "pycuda":
            pycuda_contexts.finish()
        device.errors += [f"leak: {thing}" for thing in device.left()] if leaks else []
        _on.clear()
        device.over = True
        ctypes.CDLL = real  # type: ignore[misc]
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.modules.update(before)
    if not failed and device.errors:
        raise AssertionError("the simulated device saw misuse:\n  " + "\n  ".join(device.errors))


def _library(device, cuda):
    """The driver's library, of the release that the package was made for; None where there is none."""
    if cuda is None or device.driver == "missing":
        return None
    name, _, version = cuda.partition(" ")
    numbers = {"pycuda": {"": pycuda_contexts.get_driver_version()}, "libcuda": libcuda.VERSIONS}
    numbers["cuda-python"] = {number: known[1] for number, known in cuda_python.VERSIONS.items()}
    return libcuda.Libcuda(device, numbers[name][version])


class _Finder:
    """What is not simulated is not installed, whatever this machine has."""

    def __init__(self, broken):
        self.broken = broken

    def find_spec(self, name, path=None, target=None):
        if name in self.broken:
            raise ImportError(self.broken[name], name="pycuda._driver")
        if name.split(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return
