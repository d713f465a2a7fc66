"""CUDA, as far as running TensorRT engines needs it, through cuda-python or pycuda."""

from .interface import Cuda, Gpu, Host, host
from .opening import open_cuda

__all__ = ["Cuda", "Gpu", "Host", "host", "open_cuda"]
