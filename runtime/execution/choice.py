"""Which backend runs a bundle: the one that is named, or the best of those that are installed."""

import importlib.util
import os
import sys
from typing import Optional

from ..backends.interface import Backend
from ..bundle.bundle import Bundle
from ..errors import BackendError

NAMES = ("auto", "onnxruntime", "tensorrt", "reference")


def choose(
    name: str = "auto",
    bundle: Optional[Bundle] = None,
    threads: Optional[int] = None,
    precision: Optional[str] = None,
    engines: Optional[str] = None,
) -> Backend:
    """The backend called `name`, see Runtime for the rest. "auto" takes TensorRT where engines were built for the
    bundle or nothing else is installed, else ONNX Runtime."""
    if name not in NAMES:
        raise BackendError("unknown backend %r; known: %s" % (name, ", ".join(NAMES)))
    if name == "auto":
        name = _best(bundle, engines)
    if name == "reference":
        from ..backends.reference import ReferenceBackend

        return ReferenceBackend(precision or "fp32")
    if name == "tensorrt":
        from ..trt.backend import TensorRTBackend

        return TensorRTBackend(engines, precision)
    from ..backends.onnxruntime import OrtBackend

    return OrtBackend(threads, precision or "fp32")


def _best(bundle: Optional[Bundle], engines: Optional[str]) -> str:
    there = {m for m in ("tensorrt", "onnxruntime") if m in sys.modules or importlib.util.find_spec(m) is not None}
    if not there:
        raise BackendError("no engine is installed: pip install 'da3[cpu]', or take --backend reference, which is slow")
    if "tensorrt" not in there or "onnxruntime" not in there:
        return there.pop()
    folder = engines
    if folder is None and bundle is not None and not bundle.is_zip:
        folder = os.path.join(bundle.path, "engines")
    from ..trt.store import read_sets

    return "tensorrt" if folder is not None and read_sets(folder) else "onnxruntime"
