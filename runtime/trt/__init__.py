"""TensorRT: how a bundle's engines are built on a device, found again, and run."""

from .api import Library
from .backend import TensorRTBackend
from .build import BuildReport, Progress, build_engines
from .store import describe_sets, read_sets

__all__ = ["BuildReport", "Library", "Progress", "TensorRTBackend", "build_engines", "describe_sets", "read_sets"]
