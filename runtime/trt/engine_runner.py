"""How an engine context is run: it is told what is new to it, and what it repeats is recorded as a CUDA graph."""

from typing import Any, NamedTuple, Optional, Tuple

from ..cuda.interface import Cuda
from .api import EngineContext

Addresses = Tuple[Tuple[str, int], ...]
Shapes = Tuple[Tuple[str, Tuple[int, ...]], ...]

_EAGER_RUNS = 2  # before a graph is worth its recording; TensorRT wants one at least, to settle the shapes in


class Setting(NamedTuple):
    """What an engine context must be told for a call.

    addresses, weight_addresses: where each tensor lies, by name; shapes: of the inputs whose shape is free. placement:
    an object that stands for `addresses`; domain: one that stands for the domain whose weights are read, None where
    none are. Two settings with the same placement and the same domain have the same addresses.
    """

    placement: object
    domain: Optional[object]
    addresses: Addresses
    weight_addresses: Addresses
    shapes: Shapes


class EngineRunner:
    """One engine context, and what it is set to. Its graph, if it has one, is dropped before any of that changes.

    graphs: may its runs be recorded?
    """

    def __init__(self, cuda: Cuda, context: EngineContext, graphs: bool) -> None:
        self._cuda = cuda
        self._context: Any = context
        self._graphs = graphs
        self._runs = 0
        self.placement: Optional[object] = None
        self.domain: Optional[object] = None
        self.graph: Any = None

    def settle(self, setting: Setting) -> None:
        """Tell the engine context what is new to it."""
        self.drop_graph()
        place = self._context.place
        other = self.placement is not setting.placement
        self.placement = None  # should a line below fail
        if other:
            for name, address in setting.addresses:
                place(name, address)
        for name, address in setting.weight_addresses:
            place(name, address)
        self.reshape(setting.shapes)
        self.placement, self.domain = setting.placement, setting.domain
        self._runs = 0

    def reshape(self, shapes: Shapes) -> None:
        """Tell the engine context the shapes of its inputs."""
        shape = self._context.shape
        for name, value in shapes:
            shape(name, value)

    def run(self, stream: Any, address: int) -> None:
        """Run what the engine context is set to; from the third time on as a graph, where there are graphs.

        address: that of the stream, as TensorRT takes it."""
        if self._graphs and self._runs >= _EAGER_RUNS and self._cuda.graphs:
            self._record(stream, address)
            if self.graph is not None:
                self._cuda.launch(self.graph, stream)
                return
        self._runs += 1
        self._context.enqueue(address)

    def run_once(self, address: int) -> None:
        """Run what the engine context is set to, whose shapes will be others the next time."""
        self._context.enqueue(address)

    def drop_graph(self) -> None:
        """Free the graph, if there is one."""
        graph, self.graph = self.graph, None
        if graph is not None:
            self._cuda.drop(graph)

    def close(self) -> None:
        """Free the engine context and its graph."""
        self._context = None
        self.drop_graph()

    def _record(self, stream: Any, address: int) -> None:
        try:
            self.graph = self._cuda.capture(stream, lambda: self._context.enqueue(address))
        except Exception:  # not every engine can be recorded, nor with every driver: it runs as well without
            self._graphs = False
