"""What a run's graphs are run by: the backend that is named, or the fastest that is here."""

from typing import Callable, Optional

from ..backends.sessions import import_onnxruntime
from ..errors import BackendError
from .on_cpu import CpuRunning
from .running import FULL, Running

Building = Callable[[str, float, bool], None]  # what is built, in words; for how many seconds by now; is it done?


def best_backend() -> str:
    """ONNX Runtime where it is installed, else TensorRT where there is a GPU for it.

    Raises BackendError where only numpy is: a user should know how slow that is.
    """
    try:
        import_onnxruntime()
        return "onnxruntime"
    except BackendError as missing:
        from .on_tensorrt import check_tensorrt

        try:
            check_tensorrt()
        except BackendError as unusable:
            raise BackendError(
                "%s; or, on a board with TensorRT, make that work: %s; or take --backend reference, which is slow"
                % (missing, unusable)
            )
        return "tensorrt"


def open_running(
    backend: str,
    *,
    threads: Optional[int] = None,
    precision: Optional[str] = None,
    photos: int = 0,
    apart: bool = False,
    building: Building = lambda what, seconds, done: None,
    note: Callable[[str], None] = lambda text: None,
) -> Running:
    """Of BACKENDS, the one that is named.

    threads: of the CPU; None takes those there are. precision: of a training step on TensorRT; None: fp32. photos: that
    are run at once; 0: the backend's choice. apart: graphs and engines are made in a process of their own. building: is
    told how that goes; note: what else a user may want to know. Raises BackendError for a precision that the backend
    does not have.
    """
    if backend == "tensorrt":
        from .on_tensorrt import TensorRTRunning

        return TensorRTRunning(precision or FULL, photos, apart, building, note)
    if precision not in (None, FULL):
        raise BackendError("--precision %s: learning has it with --backend tensorrt alone" % precision)
    if backend == "cuda":
        from .on_cuda import CudaRunning

        return CudaRunning()
    return CpuRunning(backend, threads, apart, photos)
