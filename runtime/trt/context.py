"""What one run at a time needs on the GPU: memory with a place for every value, engine contexts, and two streams.

The engine contexts of an execution context run one after another on one stream, so they share the memory they work in.
What the host reads on the way, gates or the features of exits, is copied on the other stream. Subgraphs that the layout
has on the host run there, on these copies, and their values stay on the host.
"""

from functools import partial
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from ..backends.interface import ExecutionContext
from ..bundle.plan import BATCH, DOMAIN, IMAGE, LOGITS
from ..cuda.interface import Host, host
from ..errors import BackendError
from ..records import Array
from ..schedule.layout import Subgraph
from .calls import Rows, RowsCall, SubgraphCall
from .engine_runner import EngineRunner, Setting, Shapes
from .engines import EngineSpec
from .formats import pack, padded, unpack
from .host_calls import HostCall
from .host_copy import HostCopy
from .opened import Engines, OpenedEngines
from .tensor_spec import TensorSpec, aligned, most_bytes, sized_shape
from .weights import Weights


class TensorRTContext(ExecutionContext):
    """See the module. Made with the context pushed; frees what it has taken if that fails.

    engines: what `opened.take` gave; they go back when the execution context is closed.
    """

    def __init__(self, opened: OpenedEngines, batch: int, engines: Engines) -> None:
        self._opened = opened
        self._cuda = opened.cuda
        self._batch = batch
        self._engines = engines
        self._tensors = opened.tensors
        self._places: Dict[str, int] = {}
        self._runners: Dict[Any, EngineRunner] = {}
        self._placements: Dict[int, object] = {}
        self._copies: Dict[str, HostCopy] = {}
        self._values: Dict[str, Array] = {}  # that were written on the host
        self._hosted = bool(opened.programs)
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

    def bind(self, subgraph: Subgraph, weights: Weights) -> Callable[[], None]:
        if subgraph.host:
            return self._host_call(subgraph, weights)
        spec = self._opened.spec(subgraph)
        with self._cuda.current():
            runner = self._runner(subgraph, spec, False)
        addresses = [(tensor.tensor, self._places[tensor.value]) for tensor in self._own_tensors(spec)]
        setting = self._setting(subgraph, spec, weights, addresses, self._batch)
        return SubgraphCall(runner, setting, weights, self._afterwards(spec, weights))

    def bind_rows(self, subgraph: Subgraph, weights: Weights) -> Callable[[Array], None]:
        if subgraph.host:
            return self._host_call(subgraph, weights).rows
        spec = self._opened.spec(subgraph)
        with self._cuda.current():
            runner = self._runner(subgraph, spec, True)
        addresses: List[Tuple[str, int]] = []
        inputs: List[Rows] = []
        outputs: List[Rows] = []
        at = self._rows
        for tensor in self._own_tensors(spec):
            address = self._places[tensor.value]
            if tensor.has_rows:
                row = most_bytes(tensor, 1)
                (inputs if tensor in spec.inputs else outputs).append(Rows(address, at, row))
                address, at = at, at + aligned(row * self._batch)
            addresses.append((tensor.tensor, address))
        placement = self._placements.setdefault(id(subgraph), object())
        return RowsCall(
            runner,
            settings=[self._setting(placement, spec, weights, addresses, count) for count in range(self._batch + 1)],
            weights=weights,
            inputs=inputs,
            outputs=outputs,
            afterwards=self._afterwards(spec, weights),
        )

    def gate(self, value: str) -> Callable[[], Array]:
        copy = self._copies.get(value)
        return partial(self._values.__getitem__, value) if copy is None else copy.read

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
        if value in self._values:
            return np.array(self._values[value])
        spec = self._tensors[value]
        shape = sized_shape(spec.shape, self._batch, self._sizes)
        room = host(np.empty(padded(shape, spec.layout), spec.dtype).reshape(-1))
        if value == LOGITS and room.nbytes <= self._logits.nbytes:
            array = self._logits.array[: room.array.size]
            room = Host(array, self._logits.address, array.nbytes)
        self._cuda.to_host(room, self._places[value], self._streams[0])
        self._finish()
        return unpack(room.array, shape, spec.layout)

    def write(self, value: str, array: Array) -> None:
        if value not in self._tensors:
            self._values[value] = np.array(array)
            return
        spec = self._tensors[value]
        self._cuda.to_device(self._places[value], host(pack(array, spec.dtype, spec.layout)), self._streams[0])
        self._finish()

    def end(self) -> None:
        if not self._pushed:
            return
        self._pushed = False
        try:
            # With subgraphs on the host, every engine ends in a copy: once all have arrived, nothing is under way.
            if self._started and not (self._hosted and all(copy.done for copy in self._copies.values())):
                self._finish()
        except BackendError:
            pass  # the run has failed before, and said why
        finally:
            self._cuda.pop()

    def close(self) -> None:
        with self._cuda.current():
            try:
                self._finish()  # a run that failed may have left something behind
            except BackendError:
                pass
            self._free()

    # -- binding

    def _host_call(self, subgraph: Subgraph, weights: Weights) -> HostCall:
        fetched = {value: copy.read for value, copy in self._copies.items()}
        return HostCall(
            self._opened.programs[id(subgraph)],
            subgraph,
            weights=weights.tensors,
            fetched=fetched,
            values=self._values,
            batch=self._batch,
        )

    def _runner(self, subgraph: Subgraph, spec: EngineSpec, rows: bool) -> EngineRunner:
        """The engine context for a subgraph. Where an engine can have one only, all subgraphs that it runs share it."""
        many = self._opened.library.shares_profiles
        key: Any = (id(subgraph), False) if many and not rows else (spec.identity, many)
        runner = self._runners.get(key)
        if runner is None:
            with self._opened.lock:
                context = self._engines[spec.identity].context(self._memory)
            graphs = many and not rows and self._cuda.graphs
            runner = self._runners[key] = EngineRunner(self._cuda, context, self._streams[0], graphs)
        return runner

    def _own_tensors(self, spec: EngineSpec) -> List[TensorSpec]:
        """Inputs and outputs that lie in the execution context's memory. TensorRT may have dropped an input that
        nothing needs."""
        there = self._engines[spec.identity].tensors
        return [tensor for tensor in spec.tensors if tensor.tensor in there and not tensor.value.startswith(DOMAIN)]

    def _setting(
        self, placement: object, spec: EngineSpec, weights: Weights, addresses: Sequence[Tuple[str, int]], batch: int
    ) -> Setting:
        there = self._engines[spec.identity].tensors
        inputs = [tensor for tensor in spec.inputs if tensor.tensor in there]
        read = [tensor for tensor in inputs if tensor.value.startswith(DOMAIN)]
        shapes: Shapes = tuple(
            (tensor.tensor, sized_shape(tensor.shape, batch, weights.sizes))
            for tensor in inputs
            if -1 in there[tensor.tensor].shape
        )
        return Setting(
            placement=placement,
            domain=weights.token if read else None,
            addresses=tuple(addresses),
            weight_addresses=tuple((tensor.tensor, weights.addresses[tensor.value, tensor.dtype]) for tensor in read),
            shapes=shapes,
        )

    def _afterwards(self, spec: EngineSpec, weights: Weights) -> List[Callable[[], None]]:
        """What is to be done when a subgraph was started: what the host will read is fetched, sizes that the domain
        sets are noted."""
        then: List[Callable[[], None]] = [
            self._copies[tensor.value].fetch for tensor in spec.outputs if tensor.value in self._copies
        ]
        if any(isinstance(n, str) and n != BATCH for tensor in spec.outputs for n in tensor.shape):
            then.append(lambda: self._sizes.update(weights.sizes))
        return then

    def _finish(self) -> None:
        """Wait until both streams are empty."""
        for stream in reversed(self._streams):
            self._cuda.wait(stream)
        self._started = False

    # -- memory

    def _reserve(self) -> None:
        """Take one block of memory: what TensorRT works in, then the values, then room for chosen rows."""
        cuda, batch = self._cuda, self._batch
        sizes: Dict[int, int] = {}
        numbers = self._opened.layout.buffers
        for value, spec in self._tensors.items():
            sizes[numbers[value]] = max(sizes.get(numbers[value], 0), most_bytes(spec, batch))
        end = aligned(max(engine.scratch for engine in self._engines.values()))
        offsets: Dict[int, int] = {}
        for number, size in sorted(sizes.items()):
            offsets[number] = end
            end += aligned(size)
        room = _rows_bytes(self._opened, batch) if batch > 1 else 0
        self._memory = cuda.alloc(end + room, "a run of %d image%s" % (batch, "" if batch == 1 else "s"))
        self._rows = self._memory + end
        self._places = {value: self._memory + offsets[numbers[value]] for value in self._tensors}
        for _ in range(2):
            self._streams.append(cuda.stream())
        cuda.zero(self._memory, end + room, self._streams[0])  # channels that only pad must hold numbers
        self._image = self._pin(sized_shape(self._tensors[IMAGE].shape, batch, {}))
        if LOGITS in self._tensors:
            self._logits = self._pin((most_bytes(self._tensors[LOGITS], batch) // 4,))
        for value in self._opened.layout.fetched:
            pinned, address = self._pin(sized_shape(self._tensors[value].shape, batch, {})), self._places[value]
            self._copies[value] = HostCopy(cuda, pinned, address, stream=self._streams[0], copies=self._streams[1])
        self._finish()

    def _pin(self, shape: Sequence[int]) -> Host:
        self._pinned.append(self._cuda.pinned(shape, np.float32))
        return self._pinned[-1]

    def _free(self) -> None:
        for runner in self._runners.values():
            runner.close()
        for copy in self._copies.values():
            copy.close()
        for stream in self._streams:
            self._cuda.destroy(stream)
        for pinned in self._pinned:
            self._cuda.unpin(pinned)
        self._image = self._logits = None  # type: ignore[assignment]
        for held in (self._runners, self._copies, self._values, self._streams, self._pinned):
            held.clear()
        if self._memory:
            self._cuda.free(self._memory)
            self._memory = 0
        engines, self._engines = self._engines, {}
        self._opened.give_back(engines)


def _rows_bytes(opened: OpenedEngines, batch: int) -> int:
    """Bytes for the inputs and outputs of any one subgraph that may run on some images only."""
    some: List[Subgraph] = []
    left = False  # images may have left
    for call in opened.layout.calls:
        if (left or call.gate is not None) and not call.subgraph.host:
            some += [call.subgraph] + ([] if call.skip is None else [call.skip])
        left = left or call.exit is not None
    specs = [opened.spec(subgraph) for subgraph in some]
    return max(
        [sum(aligned(most_bytes(tensor, 1) * batch) for tensor in spec.tensors if tensor.has_rows) for spec in specs]
        + [0]
    )
