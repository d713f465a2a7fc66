"""Which way to CUDA is taken. No package is imported, and no driver touched, before `open_cuda` is called."""

import os
from typing import Callable, Dict, List

from ..errors import BackendError
from ..system.openmp import reserve_openmp
from .ctypes_driver import CtypesCuda
from .cuda_python import CudaPython
from .interface import BindingMissing, Cuda
from .messages import INSTEAD
from .pycuda import PyCuda

VARIABLE = "DA3_CUDA"
# A package goes first: nothing needs it any more, so whoever has one wants it. What it cannot do, for want of a release
# that fits the driver for instance, the driver's own library can.
BINDINGS: Dict[str, Callable[[], Cuda]] = {"cuda-python": CudaPython, "pycuda": PyCuda, "libcuda": CtypesCuda}


def open_cuda() -> Cuda:
    """The first GPU, through the first of BINDINGS that works, or the one that the variable DA3_CUDA names.

    Raises BackendError with the reason and the way out.
    """
    reserve_openmp()  # TensorRT is loaded next
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return _chosen(chosen)
    problems: List[BackendError] = []
    for binding in BINDINGS.values():
        try:
            return binding()
        except BindingMissing:
            continue
        except BackendError as error:
            problems.append(error)
    raise problems[0]  # the driver's library is never missing as a package is


def _chosen(name: str) -> Cuda:
    if name not in BINDINGS:
        raise BackendError("%s=%s: take one of %s, or leave it out" % (VARIABLE, name, ", ".join(BINDINGS)))
    try:
        return BINDINGS[name]()
    except BindingMissing as error:
        raise BackendError("%s=%s, and %s: install it or leave the variable out, %s" % (VARIABLE, name, error, INSTEAD))
