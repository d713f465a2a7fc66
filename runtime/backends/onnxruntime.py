"""ONNX Runtime on the CPU as a backend: one session for each subgraph, all of them on one thread pool."""

from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Union

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.plan import DOMAIN, IMAGE, sized
from ..errors import BackendError
from ..records import Array, Domain, Segment, Shape
from ..schedule.layout import Layout, Subgraph, free_sizes
from .graph_store import GraphStore, find_store, source_files
from .interface import Backend, ExecutionContext
from .sessions import first_line, import_onnxruntime, open_session


class OrtBackend(Backend):
    """One image at a time: a batch would have to be split at every exit, and gains a CPU next to nothing.

    Buffers are numpy arrays that every session reads and writes in place through bindings made beforehand: a call takes
    3 us so, against 7 us for `run(names, {name: numpy})`.
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
        import_onnxruntime()

    def open(self, layout: Layout, bundle: Bundle) -> None:
        self.layout = layout
        subgraphs = list({subgraph.segment: subgraph for subgraph in layout.subgraphs}.values())
        store = find_store(bundle, layout, subgraphs, import_onnxruntime()) if self.precision == "fp32" else None
        if store is not None and self._open_stored(store, subgraphs, bundle):
            return
        # Imported here because a start from stored graphs does without all that it takes to make them.
        from .graph_making import make_graphs

        made = make_graphs(layout, subgraphs, bundle, self.precision, self.threads)
        if store is not None and made.optimised:
            store.write(made.files, made.shapes)
        self._open_sessions(subgraphs, made.files, made.optimised, bundle)
        self.shapes = made.shapes

    def _open_stored(self, store: GraphStore, subgraphs: Sequence[Subgraph], bundle: Bundle) -> bool:
        """Open what an earlier start stored; False where there is nothing of use. The bundle's own files are verified
        as if they were read for their graphs."""
        stored = store.read()
        if stored is None:
            return False
        for name in source_files(subgraphs, bundle.manifest):
            bundle.read(name)
        try:
            self._open_sessions(subgraphs, stored.paths, True, bundle)
        except BackendError:
            return False
        if not all(_fits(self.sessions[subgraph.segment], subgraph.segment) for subgraph in subgraphs):
            return False
        self.shapes = stored.shapes
        return True

    def _open_sessions(
        self, subgraphs: Sequence[Subgraph], files: Sequence[Union[bytes, str]], optimised: bool, bundle: Bundle
    ) -> None:
        for subgraph, file in zip(subgraphs, files):
            try:
                self.sessions[subgraph.segment] = open_session(file, self.threads, optimised)
            except BackendError as error:
                raise BackendError("%s: subgraph %s: %s" % (bundle.path, subgraph.segment.name, error))

    def weights(self, domain: Domain) -> "_DomainTensors":
        assert self.layout is not None
        values = {DOMAIN + name: _ort_value(array) for name, array in domain.weights.items()}
        return _DomainTensors(values, free_sizes(self.layout, domain.weights))

    def context(self, batch: int) -> "_OrtContext":
        return _OrtContext(self)

    def another(self) -> "OrtBackend":
        return OrtBackend(self.threads, self.precision)

    def close(self) -> None:
        self.sessions = {}


class _DomainTensors(NamedTuple):
    """values: OrtValues on the domain's arrays, by their names in the plan. sizes: of the free dimensions."""

    values: Dict[str, Any]
    sizes: Dict[str, int]


class _Sized(NamedTuple):
    """The values whose size is the domain's, for domains of these sizes: their arrays, and OrtValues of all values."""

    sizes: Dict[str, int]
    arrays: Dict[str, Array]
    values: Dict[str, Any]


class _OrtContext(ExecutionContext):
    """Buffers for one image."""

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
        self._own = _Sized({}, {}, self._values)

    def bind(self, subgraph: Subgraph, weights: "_DomainTensors") -> Callable[[], None]:
        arrays, sizes = self._arrays, weights.sizes
        if self._own.sizes != sizes:  # the calls of one domain are bound one after the other, and share theirs
            own = {name: np.zeros(sized(shape, sizes) or (), np.float32) for name, shape in self._free.items()}
            self._own = _Sized(sizes, own, dict(self._values, **{n: _ort_value(array) for n, array in own.items()}))
        values = self._own.values
        written = {name: self._own.arrays[name] for name in subgraph.outputs if name in self._free}
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
                raise BackendError("segment %s failed: %s" % (what, first_line(error)))
            if written:
                arrays.update(written)

        # A binding holds the addresses of arrays, not the arrays: they have to live as long as the call.
        call.operands = (values, weights)  # type: ignore[attr-defined]
        return call

    def bind_rows(self, subgraph: Subgraph, weights: Any) -> Callable[[Array], None]:
        raise AssertionError("a context for one image has no rows to choose from")

    def gate(self, value: str) -> Callable[[], Array]:
        arrays = self._arrays
        if value in self._free:
            return lambda: arrays[value]
        array = arrays[value]
        return lambda: array

    def begin(self, images: Array) -> None:
        self._arrays[IMAGE][...] = images

    def read(self, value: str) -> Array:
        result: Array = self._arrays[value].copy()
        return result

    def write(self, value: str, array: Array) -> None:
        place = self._own.arrays[value] if value in self._free else self._arrays[value]
        place[...] = array


def _fits(session: Any, segment: Segment) -> bool:
    """Whether the session has the segment's inputs and outputs."""
    inputs, outputs = ({value.name for value in values} for values in (session.get_inputs(), session.get_outputs()))
    return inputs.issuperset(v.name for v in segment.inputs) and outputs.issuperset(v.name for v in segment.outputs)


def _ort_value(array: Array) -> Any:
    """On the CPU an OrtValue uses the array's own memory, and keeps the array alive."""
    return import_onnxruntime().OrtValue.ortvalue_from_numpy(array)
