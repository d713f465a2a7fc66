"""ONNX Runtime sessions on the CPU that share one thread pool and one arena of memory.

With a thread pool each, the pools of some 30 small sessions fight for the cores, and the chain runs ten times slower
than one model. ONNX Runtime has one pool per process that sessions may share, with one consequence: once it exists,
every other session of the process must share it too (`use_per_session_threads = False`). `open_session` makes such
sessions, so whoever needs a session of their own beside a Runtime should call it. `threads=1` needs no pool and makes
none.
"""

import os
import threading
import warnings
from typing import Any, Optional, Union

import numpy as np

from ..errors import BackendError
from ..onnx_graph.model import Info, Model, Node
from ..onnx_graph.writing import write_model
from ..system.machine import usable_cpus

_PROVIDERS = ["CPUExecutionProvider"]
# What ONNX Runtime logs as an error it also raises, and da3 says it in a line; its log would stand beside that.
_SEVERITY_FATAL = 4
_TELEMETRY = "ORT_DISABLE_TELEMETRY"
# Of an arena: no limit; kSameAsRequested; begin with next to nothing; no limit for what a block may waste.
_SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")  # of a run: hand back what the arena has free at its end
_EXACT = {"max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": 1, "max_dead_bytes_per_chunk": -1}

_lock = threading.Lock()
# Threads of the process's shared pool once it exists (0: ONNX Runtime's choice, -1: made by someone else).
_pool: Optional[int] = None
# Whether there is one arena for all sessions; None until the first session asks.
_arena: Optional[bool] = None


def open_session(
    model: Union[bytes, str],
    threads: Optional[int] = None,
    optimised: bool = False,
    save: Optional[str] = None,
    as_written: bool = False,
) -> Any:
    """An onnxruntime.InferenceSession on the CPU that gets along with every other session of this process.

    model: the bytes of an ONNX file, or its path. threads: None lets ONNX Runtime use the cores it may use.
    optimised: take the graph as it is. save: a path to write the optimised graph to, good for this machine alone.
    as_written: take it as it is, run its nodes in the file's order, and plan no memory ahead, which for the graph of a
    training step takes up to twice as much as one that is freed as it is read.
    Raises BackendError if ONNX Runtime is missing or refuses the model.
    """
    ort = import_onnxruntime()
    shared = _share_pool(ort, threads)
    try:
        return _session(ort, model, shared, optimised, save, as_written)
    except Exception as error:
        # An older ONNX Runtime takes the pool's sizes and ignores them when a session was made before it.
        if not (shared and "GlobalThreadPools" in str(error)):
            raise BackendError("ONNX Runtime refuses the model: %s" % first_line(error))
    warn("another session came first, so there is no shared thread pool: each segment runs on 1 thread")
    try:
        return _session(ort, model, False, optimised, save, as_written)
    except Exception as error:
        raise BackendError("ONNX Runtime refuses the model: %s" % first_line(error))


def has_pool() -> bool:
    """Whether this process has a thread pool that every session must share."""
    return _pool is not None


def use_exact_arena() -> None:
    """Let the arena of this process take from the system what it needs, not the next power of two: for a process that
    will run something large. It has no effect once a session was made."""
    _share_arena(import_onnxruntime(), exact=True)


def empty_arena() -> None:
    """Hand what this process's one arena does not use back to the system: what ran before is closed, and what comes
    next needs blocks of other sizes, which would come on top. Nothing happens where there is no such arena, or an ONNX
    Runtime that cannot."""
    if not _arena:
        return
    ort = import_onnxruntime()
    kind = np.dtype(np.float32)
    nothing = Model([Node("Identity", ["x"], ["y"])], {}, [Info("x", kind, (1,))], [Info("y", kind, (1,))], {"": 13})
    try:
        settings = ort.RunOptions()
        settings.add_run_config_entry(*_SHRINK)
        open_step_session(write_model(nothing), 1).run(None, {"x": np.zeros(1, kind)}, settings)
    except Exception:  # it has no such setting
        pass


def open_step_session(model: Union[bytes, str], threads: Optional[int] = None, as_written: bool = False) -> Any:
    """A session for a graph that is large and run for hours, such as a training step, with threads of its own.

    Its threads do not spin while they wait, so that other processes have the cores. Its arena takes from the system
    what it needs, not the next power of two, if no session was made before; and no block is planned ahead for all that
    is alive at once, which would lie beside what the first run has taken. For a MobileNetV2's step both together are a
    sixth of the process's memory. Where the process has a pool, it is shared. threads: None uses the cores it may use.
    as_written: as for `open_session`. Raises BackendError as that does.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _SEVERITY_FATAL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of what ConvTranspose reads
    if as_written:
        _take_as_written(ort, options)
    if _share_arena(ort, exact=True):
        options.add_session_config_entry("session.use_env_allocators", "1")
    options.use_per_session_threads = not has_pool()
    if not has_pool():
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = usable_cpus() if threads is None else threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=_PROVIDERS, enable_fallback=0)
    except Exception as error:
        raise BackendError("ONNX Runtime refuses the model: %s" % first_line(error))


def import_onnxruntime() -> Any:
    """The module onnxruntime, which tells nobody that it is used. Raises BackendError where it cannot be imported.

    Its packages send telemetry, and keep a number of this device in the user's cache folder, unless a variable is set
    before the import; the function that turns it off comes too late. Who sets the variable to 0 has it back.
    """
    os.environ.setdefault(_TELEMETRY, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError("onnxruntime cannot be imported (%s): pip install 'da3[cpu]'" % first_line(error))
    return onnxruntime


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that ONNX Runtime adds; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def warn(message: str) -> None:
    """A RuntimeWarning: something works, but slower than it could."""
    warnings.warn("da3: " + message, RuntimeWarning, stacklevel=2)


def _session(
    ort: Any, model: Union[bytes, str], shared: bool, optimised: bool, save: Optional[str], as_written: bool
) -> Any:
    options = ort.SessionOptions()
    if save is not None:  # it runs nothing, and what the arena has taken it keeps
        options.enable_cpu_mem_arena = False
    elif _share_arena(ort):
        options.add_session_config_entry("session.use_env_allocators", "1")
    if as_written:
        _take_as_written(ort, options)
    if optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = save
    options.log_severity_level = _SEVERITY_FATAL
    if shared:
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
    # Its fallback would try the same provider again, and print on stdout.
    return ort.InferenceSession(model, options, providers=_PROVIDERS, enable_fallback=0)


def _take_as_written(ort: Any, options: Any) -> None:
    """Run the nodes as they are, in the file's order, and plan no memory ahead."""
    options.enable_mem_pattern = False
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if hasattr(ort, "ExecutionOrder"):
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED


def _share_pool(ort: Any, threads: Optional[int]) -> bool:
    """Make the process's pool if it is wanted and not there yet. True: sessions must use it."""
    global _pool
    with _lock:
        if _pool is None:
            if threads == 1:
                return False
            if not hasattr(ort, "set_global_thread_pool_sizes"):
                warn("this ONNX Runtime has no shared thread pool: each segment runs on 1 thread; upgrade it")
                return False
            try:
                ort.set_global_thread_pool_sizes(_default_threads() if threads is None else threads, 1)
                _pool = threads or 0
            except Exception:  # "Global thread pools have already been created": by someone else, and we must share it
                _pool = -1
        if threads is not None and threads != _pool:
            warn("this process's thread pool exists already; threads=%d is ignored" % threads)
        return True


def _share_arena(ort: Any, exact: bool = False) -> bool:
    """Make the process's one arena, which lives until the process ends. True: sessions can use it. exact: it grows by
    what is asked for, where that can be said.

    With an arena each, subgraphs that run one after the other would work in memory that none of the caches has seen
    lately. That costs a tenth of a MobileNetV2's time.
    """
    global _arena
    with _lock:
        if _arena is None:
            try:
                kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
                settings = ort.OrtArenaCfg(_EXACT) if exact else None
                ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT), settings)
                _arena = True
            except Exception:  # an older ONNX Runtime, or one whose arena somebody else has made
                _arena = False
        return _arena


def _default_threads() -> int:
    """0, ONNX Runtime's own choice (the physical cores), unless this process may only use some of them."""
    usable = usable_cpus()
    return usable if usable < (os.cpu_count() or 1) else 0
