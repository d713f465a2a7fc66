"""CUDA, as far as running TensorRT engines needs it: cuda-python, pycuda, or the driver's library by ctypes."""

from .interface import Cuda, Gpu, Host, host
from .opening import open_cuda

__all__ = ["Cuda", "Gpu", "Host", "host", "open_cuda"]
