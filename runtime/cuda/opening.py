"""Which CUDA package is used. No package is imported, and no driver touched, before `open_cuda` is called."""

from typing import List

from ..errors import BackendError
from .cuda_python import CudaPython
from .interface import BindingMissing, Cuda
from .messages import INSTEAD
from .pycuda import PyCuda


def open_cuda() -> Cuda:
    """The first GPU, through cuda-python, or through pycuda where cuda-python does not work.

    Raises BackendError with the reason and the way out.
    """
    problems: List[BackendError] = []
    for binding in (CudaPython, PyCuda):
        try:
            return binding()
        except BindingMissing:
            continue
        except BackendError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    raise BackendError(
        "CUDA cannot be reached from this Python: pip install cuda-python, or pycuda on a Jetson; " + INSTEAD
    )
