"""ONNX Runtime sessions on a GPU, by its CUDA provider: of the package onnxruntime-gpu."""

from typing import Any, List, Tuple

from ..errors import BackendError
from .sessions import first_line, import_onnxruntime

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_SEVERITY_ERROR = 3
# The arena takes what it needs, not the next power of two; cuDNN's convolutions are chosen by its own heuristics, since
# trying them all takes its time and memory at each start, and none works in more memory than that leaves.
_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": "0",
}


def open_cuda_session(model: bytes) -> Tuple[Any, str]:
    """A session for the bytes of an ONNX file, and what its OrtValues call the device that it computes on.

    Raises BackendError where ONNX Runtime has no CUDA provider, or this cannot start.
    """
    ort = import_onnxruntime()
    there: List[str] = list(ort.get_available_providers())
    if _CUDA not in there:
        raise BackendError(
            "this ONNX Runtime has no CUDA provider (it has %s): pip install onnxruntime-gpu in the place of "
            "onnxruntime, or learn on the CPU with --backend onnxruntime" % ", ".join(there)
        )
    options = ort.SessionOptions()
    options.log_severity_level = _SEVERITY_ERROR
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False  # no block is planned ahead for all that is alive at once
    try:
        # Without its fallback, which would go on on the CPU and print on stdout.
        session = ort.InferenceSession(model, options, providers=[(_CUDA, _OPTIONS), _CPU], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise BackendError("ONNX Runtime cannot learn on this GPU: %s" % first_line(error))
    if _CUDA not in session.get_providers():  # a library that it needs is missing: it says so in its log alone
        raise BackendError(
            "ONNX Runtime's CUDA provider does not start: install the CUDA and cuDNN that this onnxruntime-gpu was "
            "built for, or learn on the CPU with --backend onnxruntime"
        )
    return session, "cuda"
