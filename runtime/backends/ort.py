"""ONNX Runtime on the CPU: one session per file, all of them on one shared thread pool.

With a thread pool each, the pools of some 30 small sessions fight for the cores and the chain runs ten times
slower than one model. ONNX Runtime has one pool per process that sessions may share, with one consequence:
once it exists, every other session of the process must share it too (`use_per_session_threads = False`).
`open_session` here does, so whoever needs a session of their own beside a Runtime should call it. `threads=1`
needs no pool and sets none.
"""

import os
import threading
import warnings
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

from ..errors import BackendError
from ..records import Segment
from ..stats import usable_cpus
from . import Backend, Run

if TYPE_CHECKING:
    from ..bundle import Bundle

_PROVIDERS = ["CPUExecutionProvider"]
_SEVERITY_ERROR = 3

_lock = threading.Lock()
# Threads of the process's shared pool once it exists (0: ONNX Runtime's choice, -1: made by someone else).
_pool: Optional[int] = None


class OrtBackend(Backend):
    """See the module. `run(names, {name: numpy})` is the fastest call there is from Python: 7 us a segment,
    against 32 us through OrtValues."""

    name = "onnxruntime"

    def __init__(self, threads: Optional[int] = None) -> None:
        if threads is not None and threads < 1:
            raise BackendError("threads must be at least 1, not %d" % threads)
        self.threads = threads
        self._sessions: Dict[str, Any] = {}
        _import()

    def open(self, segment: Segment, bundle: "Bundle") -> Run:
        session = self._sessions.get(segment.file)
        if session is None:
            try:
                session = open_session(bundle.read(segment.file), self.threads)
            except BackendError as error:
                raise BackendError("%s: %s: %s" % (bundle.path, segment.file, error))
            self._sessions[segment.file] = session
        _check_names(segment, session)
        inputs = [value.name for value in segment.inputs]
        outputs = [value.name for value in segment.outputs]
        run_session = session.run

        def run(values: List[Any]) -> List[Any]:
            try:
                result: List[Any] = run_session(outputs, dict(zip(inputs, values)))
            except Exception as error:  # ONNX Runtime's exceptions have no common base
                raise BackendError("segment %s failed: %s" % (segment.name, _first_line(error)))
            return result

        return run

    def close(self) -> None:
        self._sessions.clear()


def open_session(model: Union[bytes, str], threads: Optional[int] = None) -> Any:
    """An onnxruntime.InferenceSession on the CPU that gets along with every other session of this process.

    model: the bytes of an ONNX file, or its path. threads: None lets ONNX Runtime use the cores it may use.
    """
    ort = _import()
    shared = _share_pool(ort, threads)
    try:
        return _session(ort, model, shared)
    except Exception as error:
        # An older ONNX Runtime takes the pool's sizes and ignores them when a session was made before it.
        if not (shared and "GlobalThreadPools" in str(error)):
            raise BackendError("ONNX Runtime refuses the model: %s" % _first_line(error))
    _note("another session came first, so there is no shared thread pool: each segment runs on 1 thread")
    try:
        return _session(ort, model, False)
    except Exception as error:
        raise BackendError("ONNX Runtime refuses the model: %s" % _first_line(error))


def _session(ort: Any, model: Union[bytes, str], shared: bool) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _SEVERITY_ERROR
    if shared:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
    # enable_fallback: its retry with the same provider only prints on stdout.
    return ort.InferenceSession(model, options, providers=_PROVIDERS, enable_fallback=0)


def _share_pool(ort: Any, threads: Optional[int]) -> bool:
    """Make the process's pool if it is wanted and not there yet. True: sessions must use it."""
    global _pool
    with _lock:
        if _pool is None:
            if threads == 1:
                return False
            if not hasattr(ort, "set_global_thread_pool_sizes"):
                _note("this ONNX Runtime has no shared thread pool: each segment runs on 1 thread; upgrade it")
                return False
            try:
                ort.set_global_thread_pool_sizes(_default_threads() if threads is None else threads, 1)
                _pool = threads or 0
            except Exception:  # "Global thread pools have already been created": someone else's, and we must share it
                _pool = -1
        if threads is not None and threads != _pool:
            _note("this process's thread pool exists already; threads=%d is ignored" % threads)
        return True


def _default_threads() -> int:
    """0, ONNX Runtime's own choice (the physical cores), unless this process may only use some of them."""
    usable = usable_cpus()
    return usable if usable < (os.cpu_count() or 1) else 0


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("onnxruntime cannot be imported (%s): pip install 'da3[cpu]'" % _first_line(error))
    return onnxruntime


def _check_names(segment: Segment, session: Any) -> None:
    for kind, found, wanted in (
        ("inputs", session.get_inputs(), segment.inputs),
        ("outputs", session.get_outputs(), segment.outputs),
    ):
        have = {value.name for value in found}
        names = {value.name for value in wanted}
        if have != names and (kind == "inputs" or not names <= have):
            raise BackendError(
                "segment %s: %s has %s %s, the manifest says %s; export the bundle again"
                % (segment.name, segment.file, kind, sorted(have), sorted(names))
            )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _note(message: str) -> None:
    warnings.warn("da3: " + message, RuntimeWarning, stacklevel=2)
