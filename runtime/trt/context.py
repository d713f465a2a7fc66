"""What one run at a time needs on the GPU: memory with a place for every value, engine contexts, and two streams.

Engine contexts are an execution context's own, or, where an engine can have one only, lent to it from `begin` to `end`.

The engine contexts of an execution context run one after another on one stream, so they share the memory they work in.
What the host reads on the way, gates or the features of exits, is copied on the other stream. Subgraphs that the layout
has on the host run there, on these copies, and their values stay on the host.
"""

from functools import partial
from typing import Any, Callable, Dict, List, Sequence, Tuple, Union

import numpy as np

from ..backends.interface import ExecutionContext
from ..bundle.plan import DOMAIN, IMAGE, LOGITS
from ..cuda.interface import Host, host
from ..errors import BackendError
from ..records import Array
from ..schedule.layout import Subgraph
from .calls import Place, Rows, RowsCall, SubgraphCall
from .engine_runner import Setting
from .engines import EngineSpec
from .formats import pack, padded, unpack
from .host_calls import HostCall
from .host_copy import HostCopy, HostView
from .opened import OpenedEngines
from .tensor_spec import TensorSpec, aligned, sized_shape, tensor_bytes
from .weights import Weights


class TensorRTContext(ExecutionContext):
    """See the module. Made with the context pushed; frees what it has taken if that fails."""

    def __init__(self, opened: OpenedEngines, batch: int) -> None:
        self._opened = opened
        self._cuda = opened.cuda
        self._batch = batch
        self._place: Any = None
        self._tensors = opened.tensors
        self._places: Dict[str, int] = {}
        self._placements: Dict[Tuple[int, bool], object] = {}
        self._copies: Dict[str, Union[HostCopy, HostView]] = {}
        self._values: Dict[str, Array] = {}  # that were written on the host
        self._hosted = bool(opened.programs)
        self._pinned: List[Host] = []
        self._streams: List[Any] = []
        self._memory = 0
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
            key = self._key(subgraph, spec, False)
        addresses = [(tensor.tensor, self._places[tensor.value]) for tensor in self._own_tensors(spec)]
        setting = self._setting(self._placement(subgraph, False), spec, weights, addresses, self._batch)
        return SubgraphCall(self._place, key, setting, weights, self._afterwards(spec))

    def bind_rows(self, subgraph: Subgraph, weights: Weights) -> Callable[[Array], None]:
        if subgraph.host:
            return self._host_call(subgraph, weights).rows
        spec = self._opened.spec(subgraph)
        with self._cuda.current():
            key = self._key(subgraph, spec, True)
        addresses: List[Tuple[str, int]] = []
        inputs: List[Rows] = []
        outputs: List[Rows] = []
        at = self._rows
        for tensor in self._own_tensors(spec):
            address = self._places[tensor.value]
            if tensor.has_rows:
                row = tensor_bytes(tensor, 1)
                (inputs if tensor in spec.inputs else outputs).append(Rows(address, at, row))
                address, at = at, at + aligned(row * self._batch)
            addresses.append((tensor.tensor, address))
        placement = self._placement(subgraph, True)
        return RowsCall(
            self._place,
            key,
            settings=[self._setting(placement, spec, weights, addresses, count) for count in range(self._batch + 1)],
            weights=weights,
            inputs=inputs,
            outputs=outputs,
            # Other rows may have been written before, by the subgraph that runs in this one's place.
            before=[self._copies[tensor.value].hold for tensor in spec.outputs if tensor.value in self._copies],
            afterwards=self._afterwards(spec),
        )

    def gate(self, value: str) -> Callable[[], Array]:
        copy = self._copies.get(value)
        return partial(self._values.__getitem__, value) if copy is None else copy.read

    def begin(self, images: Array) -> None:
        self._cuda.push()
        self._pushed = self._started = True
        try:
            if not self._opened.shared:
                with self._opened.lock:
                    self._place.runners = self._opened.lend()
            if self._image.array.dtype == images.dtype:
                np.copyto(self._image.array, images)
            else:
                with np.errstate(over="ignore"):
                    np.copyto(self._image.array, images, casting="same_kind")
            self._cuda.to_device(self._places[IMAGE], self._image, self._streams[0])
        except BaseException:
            self.end()  # nobody else will: the run has not begun
            raise

    def read(self, value: str) -> Array:
        if value in self._values:
            return np.array(self._values[value])
        spec = self._tensors[value]
        shape = sized_shape(spec.shape, self._batch)
        room = self._logits if value == LOGITS else host(np.empty(padded(shape, spec.layout), spec.dtype))
        self._cuda.to_host(room, self._places[value], self._streams[0])
        self._finish()
        return unpack(room.array.reshape(-1), shape, spec.layout)

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
            if not self._opened.shared:
                self._return_runners()
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

    def _key(self, subgraph: Subgraph, spec: EngineSpec, rows: bool) -> Any:
        """The key of the engine context for a subgraph, which is made if it is one of our own. Where an engine can have
        one only, all subgraphs that it runs share it; else those that run on some images do."""
        if not self._opened.shared:
            return spec.identity
        key = (spec.identity, "rows") if rows else (spec.identity, id(subgraph))
        with self._opened.lock:
            self._place.runners.add(key, spec.identity, not rows and self._cuda.graphs)
        return key

    def _placement(self, subgraph: Subgraph, rows: bool) -> object:
        return self._placements.setdefault((id(subgraph), rows), object())

    def _return_runners(self) -> None:
        runners, self._place.runners = self._place.runners, None
        if runners is not None:
            with self._opened.lock:
                self._opened.give_back(runners)

    def _own_tensors(self, spec: EngineSpec) -> List[TensorSpec]:
        """Inputs and outputs that lie in the execution context's memory."""
        there = self._opened.engine_tensors(spec)
        return [tensor for tensor in spec.tensors if tensor.tensor in there and not tensor.value.startswith(DOMAIN)]

    def _setting(
        self, placement: object, spec: EngineSpec, weights: Weights, addresses: Sequence[Tuple[str, int]], batch: int
    ) -> Setting:
        there = self._opened.engine_tensors(spec)
        inputs = [tensor for tensor in spec.inputs if tensor.tensor in there]
        read = [tensor for tensor in inputs if tensor.value.startswith(DOMAIN)]
        return Setting(
            placement=placement,
            domain=weights.token if read else None,
            addresses=tuple(addresses),
            weight_addresses=tuple((tensor.tensor, weights.addresses[tensor.value, tensor.dtype]) for tensor in read),
            shapes=self._opened.free_shapes(spec, batch),
        )

    def _afterwards(self, spec: EngineSpec) -> List[Callable[[], None]]:
        """What is to be done when a subgraph was started: what the host will read is fetched."""
        return [self._copies[tensor.value].fetch for tensor in spec.outputs if tensor.value in self._copies]

    def _finish(self) -> None:
        """Wait until both streams are empty."""
        for stream in reversed(self._streams):
            self._cuda.wait(stream)
        self._started = False

    # -- memory

    def _reserve(self) -> None:
        """Take one block of memory: the values, then room for chosen rows."""
        cuda, batch = self._cuda, self._batch
        sizes: Dict[int, int] = {}
        numbers = self._opened.layout.buffers
        for value, spec in self._tensors.items():
            sizes[numbers[value]] = max(sizes.get(numbers[value], 0), tensor_bytes(spec, batch))
        end = 0
        offsets: Dict[int, int] = {}
        for number, size in sorted(sizes.items()):
            offsets[number] = end
            end += aligned(size)
        room = _rows_bytes(self._opened, batch) if batch > 1 else 0
        what = "a run of %d image%s" % (batch, "" if batch == 1 else "s")
        self._memory = cuda.alloc(end + room, what)
        self._rows = self._memory + end
        self._places = {value: self._memory + offsets[numbers[value]] for value in self._tensors}
        for _ in range(2):
            self._streams.append(cuda.stream())
        self._place = Place(cuda, self._streams[0])
        if self._opened.shared:
            with self._opened.lock:
                self._place.runners = self._opened.runners(batch, what)
        cuda.zero(self._memory, end + room, self._streams[0])  # channels that only pad must hold numbers
        self._image = self._pin(self._tensors[IMAGE])
        if LOGITS in self._tensors:
            self._logits = self._pin(self._tensors[LOGITS])
        for value in self._opened.layout.fetched:
            self._copies[value] = self._way_to_host(value, self._pin(self._tensors[value]))
        self._finish()

    def _way_to_host(self, value: str, pinned: Host) -> Union[HostCopy, HostView]:
        """How a value comes to the page-locked memory where the host reads it. An engine writes it there by itself if
        no bus is between: it is written once, and nobody else reads it."""
        cuda, stream = self._cuda, self._streams[0]
        mapped = cuda.device_address(pinned) if cuda.gpu.integrated else None
        if mapped is None:
            return HostCopy(cuda, pinned, self._places[value], stream=stream, copies=self._streams[1])
        self._places[value] = mapped
        return HostView(cuda, pinned, stream=stream)

    def _pin(self, spec: TensorSpec) -> Host:
        """Room on the host for a value in plain rows."""
        self._pinned.append(self._cuda.pinned(sized_shape(spec.shape, self._batch), spec.dtype))
        return self._pinned[-1]

    def _free(self) -> None:
        runners = None if self._place is None else self._place.runners
        if runners is not None:
            self._place.runners = None
            runners.close()
        for copy in self._copies.values():
            copy.close()
        for stream in self._streams:
            self._cuda.destroy(stream)
        for pinned in self._pinned:
            self._cuda.unpin(pinned)
        self._image = self._logits = None  # type: ignore[assignment]
        for held in (self._copies, self._values, self._streams, self._pinned):
            held.clear()
        if self._memory:
            self._cuda.free(self._memory)
            self._memory = 0


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
        [sum(aligned(tensor_bytes(tensor, 1) * batch) for tensor in spec.tensors if tensor.has_rows) for spec in specs]
        + [0]
    )
