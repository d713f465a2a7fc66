"""A subgraph bound to a context's memory, ready to be called: on every image, or on some rows."""

from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

from ..cuda.interface import Cuda, Host
from ..errors import BackendError
from ..records import Array
from .api import EngineContext

Addresses = Tuple[Tuple[str, int], ...]
Shapes = Tuple[Tuple[str, Tuple[int, ...]], ...]

_EAGER_RUNS = 2  # before a graph is worth its recording; TensorRT wants one at least, to settle the shapes in


class Setting(NamedTuple):
    """What a context must be told for a call. use: an object that stands for `addresses`; weights: one that stands
    for the domain, None where no weights are read."""

    use: object
    weights: Optional[object]
    addresses: Addresses
    weight_addresses: Addresses
    shapes: Shapes


class Station:
    """One context, and what it is set to. Its graph, if it has one, is dropped before any of that changes."""

    def __init__(self, cuda: Cuda, context: EngineContext, stream: Any, graphs: bool) -> None:
        self._cuda = cuda
        self._context: Any = context
        self._stream = stream
        self._address = cuda.address(stream)
        self._graphs = graphs
        self._runs = 0
        self.use: Optional[object] = None
        self.weights: Optional[object] = None
        self.graph: Any = None

    def settle(self, setting: Setting) -> None:
        """Tell the context what is new to it."""
        self.drop_graph()
        place = self._context.place
        other = self.use is not setting.use
        self.use = None  # should a line below fail
        if other:
            for name, address in setting.addresses:
                place(name, address)
        for name, address in setting.weight_addresses:
            place(name, address)
        self.reshape(setting.shapes)
        self.use, self.weights = setting.use, setting.weights
        self._runs = 0

    def reshape(self, shapes: Shapes) -> None:
        shape = self._context.shape
        for name, value in shapes:
            shape(name, value)

    def run(self) -> None:
        """Run what the context is set to; from the third time on as a graph, where there are graphs."""
        if self._graphs and self._runs >= _EAGER_RUNS:
            self._record()
            if self.graph is not None:
                self._cuda.launch(self.graph, self._stream)
                return
        self._runs += 1
        self._context.enqueue(self._address)

    def drop_graph(self) -> None:
        graph, self.graph = self.graph, None
        if graph is not None:
            self._cuda.drop(graph)

    def close(self) -> None:
        self._context = None
        self.drop_graph()

    def _record(self) -> None:
        try:
            self.graph = self._cuda.capture(self._stream, lambda: self._context.enqueue(self._address))
        except Exception:  # not every engine can be recorded, nor with every driver: it runs as well without
            self._graphs = False


class Gate:
    """A gate's way to the host: copied on a stream of its own as soon as it is there, beside what follows."""

    def __init__(self, cuda: Cuda, host: Host, address: int, stream: Any, copies: Any) -> None:
        self._cuda = cuda
        self._host = host
        self._address = address
        self._stream = stream
        self._copies = copies
        self._written = cuda.event()
        self._copied = cuda.event()

    def fetch(self) -> None:
        """Start the copy, behind what is in the context's stream by now; the host does not wait."""
        cuda = self._cuda
        cuda.record(self._written, self._stream)
        cuda.stream_waits(self._copies, self._written)
        cuda.to_host(self._host, self._address, self._copies)
        cuda.record(self._copied, self._copies)

    def read(self) -> Array:
        """The logits, once the copy is done."""
        self._cuda.wait_event(self._copied)
        return self._host.array

    def close(self) -> None:
        self._cuda.destroy(self._written)
        self._cuda.destroy(self._copied)
        self._host = self._written = self._copied = None  # type: ignore[assignment]


class Call:
    """A subgraph on every image of the context. afterwards: called when it was started."""

    def __init__(
        self,
        cuda: Cuda,
        stream: Any,
        station: Station,
        setting: Setting,
        owner: object,
        afterwards: Sequence[Callable[[], None]],
    ) -> None:
        self._launch = cuda.launch
        self._stream = stream
        self._station = station
        self._setting = setting
        self._use = setting.use
        self._weights = setting.weights
        self._owner = owner  # of the memory that the weights lie in
        self._afterwards = afterwards

    def __call__(self) -> None:
        station = self._station
        try:
            if station.use is not self._use or station.weights is not self._weights:
                station.settle(self._setting)
                station.run()
            elif station.graph is not None:
                self._launch(station.graph, self._stream)
            else:
                station.run()
            for then in self._afterwards:
                then()
        except BackendError:
            raise
        except Exception as error:  # pybind11 raises what C++ threw as RuntimeError or TypeError
            raise failed(error)


class Rows(NamedTuple):
    """A value with a row for each image: where it lies for all of them and for chosen ones, bytes of a row."""

    whole: int
    chosen: int
    nbytes: int


class RowsCall:
    """A subgraph on some images: their rows are copied together, run, and copied back. settings: by number of rows."""

    def __init__(
        self,
        cuda: Cuda,
        stream: Any,
        station: Station,
        settings: Sequence[Setting],
        owner: object,
        inputs: Sequence[Rows],
        outputs: Sequence[Rows],
        afterwards: Sequence[Callable[[], None]],
    ) -> None:
        self._copy = cuda.copy
        self._stream = stream
        self._station = station
        self._settings = settings
        self._owner = owner
        self._inputs = inputs
        self._outputs = outputs
        self._afterwards = afterwards

    def __call__(self, rows: Array) -> None:
        runs = consecutive(rows.tolist())
        setting = self._settings[len(rows)]
        station, copy, stream = self._station, self._copy, self._stream
        try:
            for whole, chosen, nbytes in self._inputs:
                for start, at, count in runs:
                    copy(chosen + at * nbytes, whole + start * nbytes, count * nbytes, stream)
            if station.use is not setting.use or station.weights is not setting.weights:
                station.settle(setting)
            else:
                station.reshape(setting.shapes)
            station.run()
            for whole, chosen, nbytes in self._outputs:
                for start, at, count in runs:
                    copy(whole + start * nbytes, chosen + at * nbytes, count * nbytes, stream)
            for then in self._afterwards:
                then()
        except BackendError:
            raise
        except Exception as error:  # see Call
            raise failed(error)


def consecutive(rows: Sequence[int]) -> List[Tuple[int, int, int]]:
    """Ascending row numbers as (first row, its place among the chosen, how many follow each other)."""
    runs: List[Tuple[int, int, int]] = []
    for at, row in enumerate(rows):
        if runs and runs[-1][0] + runs[-1][2] == row:
            start, first, count = runs[-1]
            runs[-1] = (start, first, count + 1)
        else:
            runs.append((row, at, 1))
    return runs


def failed(error: Exception) -> BackendError:
    """What a library raised, as the error that this room raises."""
    return BackendError("TensorRT failed: %s" % (str(error).strip() or type(error).__name__).split("\n")[0])
