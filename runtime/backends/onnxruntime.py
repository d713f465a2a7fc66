"""ONNX Runtime on the CPU: one session per file, all of them on one shared thread pool.

With a thread pool each, the pools of some 30 small sessions fight for the cores and the chain runs ten times
slower than one model. ONNX Runtime has one pool per process that sessions may share, with one consequence:
once it exists, every other session of the process must share it too (`use_per_session_threads = False`).
`open_session` here does, so whoever needs a session of their own beside a Runtime should call it. `threads=1`
needs no pool and sets none.
"""

import os
import tempfile
import threading
import warnings
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set, Union

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.plan import BATCH, DOMAIN, IMAGE, sized
from ..errors import BackendError, BundleError
from ..onnx_graph.model import Model
from ..onnx_graph.subgraphs import cpu_subgraph
from ..onnx_graph.writing import write_model
from ..records import Array, Domain, Segment, Shape
from ..schedule.layout import Layout, Subgraph, free_sizes
from ..system.machine import usable_cpus
from .blocked import Blocked, block_borders
from .interface import Backend, ExecutionContext

_PROVIDERS = ["CPUExecutionProvider"]
_SEVERITY_ERROR = 3

_lock = threading.Lock()
# Threads of the process's shared pool once it exists (0: ONNX Runtime's choice, -1: made by someone else).
_pool: Optional[int] = None
_arena: Optional[bool] = None  # is there one for all sessions?


class OrtBackend(Backend):
    """One image at a time: a batch would have to be split at every gate, and gains a CPU next to nothing.

    Buffers are numpy arrays that every session reads and writes in place through bindings made beforehand: 3 us a
    call, against 7 us for `run(names, {name: numpy})`.
    """

    name = "onnxruntime"
    max_batch = 1

    def __init__(self, threads: Optional[int] = None, precision: str = "fp32") -> None:
        """precision: fp32, fp16 or int8; the others are no faster, and show what they cost in accuracy."""
        if threads is not None and threads < 1:
            raise BackendError("threads must be at least 1, not %d" % threads)
        self.threads = threads
        self.precision = precision
        self.layout: Optional[Layout] = None
        self.shapes: Dict[str, Shape] = {}  # of every value between subgraphs, as it lies in its buffer
        self.sessions: Dict[Segment, Any] = {}
        _import()

    def open(self, layout: Layout, bundle: Bundle) -> None:
        subgraphs = {subgraph.segment: subgraph for subgraph in layout.subgraphs}
        models = [_for_one_image(cpu_subgraph(subgraph, bundle, self.precision)) for subgraph in subgraphs.values()]
        self.layout = layout
        self.shapes = {name: _for_one(shape) for name, shape in layout.values.items()}
        inner = {n for n, s in self.shapes.items() if len(s) == 4 and n != IMAGE} - set(layout.gates + layout.readable)
        blocked = _block(models, inner, self.threads) if self.precision == "fp32" else None
        if blocked is not None:
            models = blocked.models
            self.shapes.update(blocked.shapes)
        for subgraph, model in zip(subgraphs.values(), models):
            try:
                session = open_session(write_model(model), self.threads, optimised=blocked is not None)
            except BackendError as error:
                raise BackendError("%s: subgraph %s: %s" % (bundle.path, subgraph.segment.name, error))
            self.sessions[subgraph.segment] = session

    def weights(self, domain: Domain) -> "_Weights":
        assert self.layout is not None
        values = {DOMAIN + name: _ort_value(array) for name, array in domain.weights.items()}
        return _Weights(values, free_sizes(self.layout, domain.weights))

    def context(self, batch: int) -> "_OrtContext":
        return _OrtContext(self)

    def another(self) -> "OrtBackend":
        return OrtBackend(self.threads, self.precision)

    def close(self) -> None:
        self.sessions = {}


class _Weights(NamedTuple):
    values: Dict[str, Any]  # OrtValues on the domain's arrays
    sizes: Dict[str, int]  # of the free dimensions


class _OrtContext(ExecutionContext):
    def __init__(self, backend: OrtBackend) -> None:
        assert backend.layout is not None
        self._sessions = backend.sessions
        buffers = backend.layout.buffers
        fixed = {name: sized(shape, {}) for name, shape in backend.shapes.items()}
        self._free = {name: backend.shapes[name] for name, shape in fixed.items() if shape is None}
        shapes = {name: shape for name, shape in fixed.items() if shape is not None}
        lengths: Dict[int, int] = {}
        for name, shape in shapes.items():
            lengths[buffers[name]] = max(lengths.get(buffers[name], 0), int(np.prod(shape)))
        memory = {number: np.zeros(length, np.float32) for number, length in lengths.items()}
        self._arrays: Dict[str, Array] = {
            name: memory[buffers[name]][: int(np.prod(shape))].reshape(shape) for name, shape in shapes.items()
        }
        self._values = {name: _ort_value(array) for name, array in self._arrays.items()}

    def bind(self, subgraph: Subgraph, weights: "_Weights") -> Callable[[], None]:
        values, arrays = self._values, self._arrays
        own: Dict[str, Array] = {}  # outputs whose size is the domain's
        for name in subgraph.outputs:
            if name in self._free:
                own[name] = np.zeros(sized(self._free[name], weights.sizes) or (), np.float32)
        if own:
            values = dict(values, **{name: _ort_value(array) for name, array in own.items()})
        session = self._sessions[subgraph.segment]
        binding = session.io_binding()
        for name, value in zip(subgraph.inputs, subgraph.segment.inputs):
            given = weights.values[name] if name.startswith(DOMAIN) else values[name]
            binding.bind_ortvalue_input(value.name, given)
        for name, value in zip(subgraph.outputs, subgraph.segment.outputs):
            binding.bind_ortvalue_output(value.name, values[name])
        run, what = session.run_with_iobinding, subgraph.segment.name

        def call() -> None:
            try:
                run(binding)
            except Exception as error:  # ONNX Runtime's exceptions have no common base
                raise BackendError("segment %s failed: %s" % (what, _first_line(error)))
            if own:
                arrays.update(own)

        # Bindings hold addresses, not the arrays behind them.
        call.keep = (values, weights)  # type: ignore[attr-defined]
        return call

    def bind_rows(self, subgraph: Subgraph, weights: Any) -> Callable[[Array], None]:
        raise AssertionError("a context for one image has no rows to choose from")

    def gate(self, value: str) -> Callable[[], Array]:
        array = self._arrays[value]
        return lambda: array

    def begin(self, images: Array) -> None:
        self._arrays[IMAGE][...] = images

    def read(self, value: str) -> Array:
        result: Array = self._arrays[value].copy()
        return result


def _for_one(shape: Shape) -> Shape:
    return tuple(1 if n == BATCH else n for n in shape)


def _for_one_image(model: Model) -> Model:
    """With known shapes ONNX Runtime can plan memory ahead."""
    for infos in (model.inputs, model.outputs):
        infos[:] = [info._replace(shape=_for_one(info.shape)) for info in infos]  # type: ignore[arg-type]
    return model


def _block(models: List[Model], inner: Set[str], threads: Optional[int]) -> Optional[Blocked]:
    """The subgraphs with borders in blocks, None where that cannot be had."""
    with tempfile.TemporaryDirectory(prefix="da3-") as folder:
        path = os.path.join(folder, "optimised.onnx")

        def optimise(data: bytes) -> bytes:
            open_session(data, threads, save=path)
            with open(path, "rb") as file:
                return file.read()

        try:
            return block_borders(models, inner, optimise)
        except (BackendError, BundleError, OSError) as error:
            _note("subgraphs keep their own memory layout, which is slower: %s" % _first_line(error))
            return None


def _ort_value(array: Array) -> Any:
    """On the CPU an OrtValue uses the array's own memory, and keeps the array."""
    return _import().OrtValue.ortvalue_from_numpy(array)


def open_session(
    model: Union[bytes, str], threads: Optional[int] = None, optimised: bool = False, save: Optional[str] = None
) -> Any:
    """An onnxruntime.InferenceSession on the CPU that gets along with every other session of this process.

    model: the bytes of an ONNX file, or its path. threads: None lets ONNX Runtime use the cores it may use.
    optimised: take the graph as it is. save: a path to write the optimised graph to, good for this machine alone.
    """
    ort = _import()
    shared = _share_pool(ort, threads)
    try:
        return _session(ort, model, shared, optimised, save)
    except Exception as error:
        # An older ONNX Runtime takes the pool's sizes and ignores them when a session was made before it.
        if not (shared and "GlobalThreadPools" in str(error)):
            raise BackendError("ONNX Runtime refuses the model: %s" % _first_line(error))
    _note("another session came first, so there is no shared thread pool: each segment runs on 1 thread")
    try:
        return _session(ort, model, False, optimised, save)
    except Exception as error:
        raise BackendError("ONNX Runtime refuses the model: %s" % _first_line(error))


def _session(ort: Any, model: Union[bytes, str], shared: bool, optimised: bool, save: Optional[str]) -> Any:
    options = ort.SessionOptions()
    if _share_arena(ort):
        options.add_session_config_entry("session.use_env_allocators", "1")
    if optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = save
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


def _share_arena(ort: Any) -> bool:
    """Make the process's one arena. With an arena each, subgraphs run one after the other would work in memory that none
    of the caches has seen lately: a tenth of a MobileNetV2's time. It is kept until the process ends."""
    global _arena
    with _lock:
        if _arena is None:
            try:
                kind = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
                ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", kind, 0, ort.OrtMemType.DEFAULT), None)
                _arena = True
            except Exception:  # an older ONNX Runtime, or one whose arena somebody else has made
                _arena = False
        return _arena


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _note(message: str) -> None:
    warnings.warn("da3: " + message, RuntimeWarning, stacklevel=2)
