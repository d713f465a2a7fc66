"""Backends that run subgraphs, behind one interface: ONNX Runtime here, numpy in `reference`, TensorRT in `trt`."""

from .interface import Backend, ExecutionContext
from .onnxruntime import OrtBackend
from .sessions import open_session

__all__ = ["Backend", "ExecutionContext", "OrtBackend", "open_session"]
