"""What one run at a time needs on the GPU: a block of memory with a place for every value, contexts, two streams.

The contexts of a context run one after another on one stream, so they share the memory they work in. Gates are copied to
the host on the other stream.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from ..backends.interface import ExecutionContext
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS
from ..cuda.interface import Host, host
from ..errors import BackendError
from ..records import Array, Shape
from ..schedule.layout import Subgraph
from .api import Engine
from .calls import Call, Gate, Rows, RowsCall, Setting, Shapes, Station
from .engines import FREE, TensorSpec, Wanted
from .formats import nbytes, padded, unpack

if TYPE_CHECKING:
    from .backend import TensorRTBackend, Weights

_ALIGNED = 512  # bytes; what CUDA calls textureAlignment, and more than the 256 that tensors need


class TensorRTContext(ExecutionContext):
    """See the module. Made with the context pushed; frees what it has taken if that fails."""

    def __init__(self, backend: "TensorRTBackend", batch: int, engines: Dict[str, Engine]) -> None:
        self._backend = backend
        self._cuda = backend.cuda
        self._batch = batch
        self._engines = engines
        self._borders = backend.values
        self._places: Dict[str, int] = {}
        self._stations: Dict[Any, Station] = {}
        self._uses: Dict[int, object] = {}
        self._gates: Dict[str, Gate] = {}
        self._pinned: List[Host] = []
        self._streams: List[Any] = []
        self._memory = 0
        self._sizes: Dict[str, int] = {}  # of the domain that ran last
        self._pushed = False
        self._started = False
        try:
            self._reserve()
        except BaseException:
            self._free()
            raise

    def bind(self, subgraph: Subgraph, weights: "Weights") -> Callable[[], None]:
        wanted = self._backend.wanted(subgraph)
        with self._cuda.current():
            station = self._station(subgraph, wanted, False)
        addresses = [(b.tensor, self._places[b.value]) for b in self._values(wanted)]
        setting = self._setting(subgraph, wanted, weights, addresses, self._batch)
        return Call(self._cuda, self._streams[0], station, setting, weights, self._afterwards(wanted, weights))

    def bind_rows(self, subgraph: Subgraph, weights: "Weights") -> Callable[[Array], None]:
        wanted = self._backend.wanted(subgraph)
        with self._cuda.current():
            station = self._station(subgraph, wanted, True)
        addresses: List[Tuple[str, int]] = []
        inputs: List[Rows] = []
        outputs: List[Rows] = []
        at = self._rows
        for spec in self._values(wanted):
            address = self._places[spec.value]
            if spec.shape[:1] == (BATCH,):
                row = most_bytes(spec, 1)
                (inputs if spec in wanted.inputs else outputs).append(Rows(address, at, row))
                address, at = at, at + aligned(row * self._batch)
            addresses.append((spec.tensor, address))
        use = self._uses.setdefault(id(subgraph), object())
        settings = [self._setting(use, wanted, weights, addresses, count) for count in range(self._batch + 1)]
        then = self._afterwards(wanted, weights)
        return RowsCall(self._cuda, self._streams[0], station, settings, weights, inputs, outputs, then)

    def gate(self, value: str) -> Callable[[], Array]:
        return self._gates[value].read

    def begin(self, images: Array) -> None:
        self._cuda.push()
        self._pushed = self._started = True
        try:
            np.copyto(self._image.array, images)
            self._cuda.to_device(self._places[IMAGE], self._image, self._streams[0])
        except BaseException:
            self.end()  # nobody else will: the run has not begun
            raise

    def read(self, value: str) -> Array:
        spec = self._borders[value]
        shape = self._shape(spec.shape, self._batch, self._sizes)
        room = host(np.empty(padded(shape, spec.layout), spec.dtype).reshape(-1))
        if value == LOGITS and room.nbytes <= self._logits.nbytes:
            array = self._logits.array[: room.array.size]
            room = Host(array, self._logits.address, array.nbytes)
        self._cuda.to_host(room, self._places[value], self._streams[0])
        self._finish()
        return unpack(room.array, shape, spec.layout)

    def end(self) -> None:
        if not self._pushed:
            return
        self._pushed = False
        try:
            if self._started:
                self._finish()
        except BackendError:
            pass  # the run has failed before, and said why
        finally:
            self._cuda.pop()

    def close(self) -> None:
        with self._cuda.current():
            self._free()

    # -- binding

    def _station(self, subgraph: Subgraph, wanted: Wanted, rows: bool) -> Station:
        """The context for a subgraph. Where an engine can have but one, all subgraphs that it runs share it."""
        many = self._backend.library.shares_profiles
        key: Any = (id(subgraph), False) if many and not rows else (wanted.identity, many)
        station = self._stations.get(key)
        if station is None:
            with self._backend.lock:
                context = self._engines[wanted.identity].context(self._memory)
            graphs = many and not rows and self._cuda.graphs
            station = self._stations[key] = Station(self._cuda, context, self._streams[0], graphs)
        return station

    def _values(self, wanted: Wanted) -> List[TensorSpec]:
        """Inputs and outputs that lie in the context. TensorRT may have dropped an input that nothing needs."""
        tensors = self._engines[wanted.identity].tensors
        return [b for b in wanted.specs if b.tensor in tensors and not b.value.startswith(DOMAIN)]

    def _setting(
        self, use: object, wanted: Wanted, weights: "Weights", addresses: Sequence[Tuple[str, int]], batch: int
    ) -> Setting:
        tensors = self._engines[wanted.identity].tensors
        own = [b for b in wanted.inputs if b.tensor in tensors and b.value.startswith(DOMAIN)]
        shapes: Shapes = tuple(
            (b.tensor, self._shape(b.shape, batch, weights.sizes))
            for b in wanted.inputs
            if b.tensor in tensors and -1 in tensors[b.tensor].shape
        )
        return Setting(
            use,
            weights.token if own else None,
            tuple(addresses),
            tuple((b.tensor, weights.addresses[b.value, b.dtype]) for b in own),
            shapes,
        )

    def _afterwards(self, wanted: Wanted, weights: "Weights") -> List[Callable[[], None]]:
        """What is to be done when a subgraph was started: gates are fetched, sizes that the domain sets are noted."""
        then: List[Callable[[], None]] = [self._gates[b.value].fetch for b in wanted.outputs if b.value in self._gates]
        if any(isinstance(n, str) and n != BATCH for b in wanted.outputs for n in b.shape):
            then.append(lambda: self._sizes.update(weights.sizes))
        return then

    @staticmethod
    def _shape(shape: Shape, batch: int, sizes: Dict[str, int]) -> Tuple[int, ...]:
        return tuple(n if isinstance(n, int) else batch if n == BATCH else sizes[n] for n in shape)

    def _finish(self) -> None:
        for stream in reversed(self._streams):
            self._cuda.wait(stream)
        self._started = False

    # -- memory

    def _reserve(self) -> None:
        """Take one block of memory: what TensorRT works in, then the values, then room for chosen rows."""
        cuda, batch = self._cuda, self._batch
        sizes: Dict[int, int] = {}
        numbers = self._backend.layout.buffers
        for value, spec in self._borders.items():
            sizes[numbers[value]] = max(sizes.get(numbers[value], 0), most_bytes(spec, batch))
        end = aligned(max(engine.scratch for engine in self._engines.values()))
        offsets: Dict[int, int] = {}
        for number, size in sorted(sizes.items()):
            offsets[number] = end
            end += aligned(size)
        room = self._backend.rows_bytes(batch) if batch > 1 else 0
        self._memory = cuda.alloc(end + room, "a run of %d image%s" % (batch, "" if batch == 1 else "s"))
        self._rows = self._memory + end
        self._places = {value: self._memory + offsets[numbers[value]] for value in self._borders}
        for _ in range(2):
            self._streams.append(cuda.stream())
        cuda.zero(self._memory, end + room, self._streams[0])  # channels that only pad must hold numbers
        self._image = self._pin(self._shape(self._borders[IMAGE].shape, batch, {}))
        self._logits = self._pin((most_bytes(self._borders[LOGITS], batch) // 4,))
        for value in self._backend.layout.gates:
            pinned, address = self._pin((batch,)), self._places[value]
            self._gates[value] = Gate(cuda, pinned, address, self._streams[0], self._streams[1])
        self._finish()

    def _pin(self, shape: Sequence[int]) -> Host:
        self._pinned.append(self._cuda.pinned(shape, np.float32))
        return self._pinned[-1]

    def _free(self) -> None:
        for station in self._stations.values():
            station.close()
        for gate in self._gates.values():
            gate.close()
        for stream in self._streams:
            self._cuda.destroy(stream)
        for pinned in self._pinned:
            self._cuda.unpin(pinned)
        self._image = self._logits = None  # type: ignore[assignment]
        for held in (self._stations, self._gates, self._streams, self._pinned):
            held.clear()
        if self._memory:
            self._cuda.free(self._memory)
            self._memory = 0
        engines, self._engines = self._engines, {}
        self._backend.give_back(engines)


def most_bytes(spec: TensorSpec, batch: int) -> int:
    """The most that a value takes for so many images."""
    shape = tuple(n if isinstance(n, int) else batch if n == BATCH else FREE[2] for n in spec.shape)
    return nbytes(shape, np.dtype(spec.dtype), spec.layout)


def aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
