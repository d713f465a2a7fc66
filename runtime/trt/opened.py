"""A bundle's engines, opened: what the backend and its execution contexts share.

Backends for other layouts of the same bundle share engines too: those of equal identity are loaded once. Where an
engine can have one engine context only, execution contexts have none of their own: they are lent a copy of the engines
with its engine contexts while they run, so there are as many copies as there ever were runs at a time.
"""

import threading
import weakref
from typing import Dict, List, MutableMapping, Optional, Sequence, Tuple

from ..backends.reference import Program
from ..bundle.bundle import Bundle
from ..cuda.interface import Cuda
from ..errors import BackendError
from ..onnx_graph.subgraphs import cpu_subgraph
from ..schedule.layout import Layout, Subgraph
from ..system.sizes import render_bytes
from .api import Engine, Library, Tensor
from .engine_runner import Shapes
from .engines import EngineSpec, unique
from .runners import Engines, Runners
from .store import EngineSet, read_plan
from .tensor_spec import TensorSpec, sized_shape


class SharedEngines:
    """What backends for several layouts of one bundle share. library: TensorRT, once one of them has opened it; loaded:
    engines that are held somewhere, by folder and identity, where any number of engine contexts may use one."""

    def __init__(self) -> None:
        self.library: Optional[Library] = None
        self.loaded: MutableMapping[Tuple[str, str], Engine] = weakref.WeakValueDictionary()


class OpenedEngines:
    """See the module. specs: what each subgraph on the device needs, in the order of `layout.device_subgraphs`.

    tensors: the spec of every value that crosses engines; programs: what the subgraphs on the host run, by the id of
    each; shared: any number of engine contexts of every engine may exist. lock: to be held while engines are taken,
    engine contexts are made, or the memory of domains changes.
    """

    def __init__(
        self,
        cuda: Cuda,
        library: Library,
        *,
        layout: Layout,
        bundle: Bundle,
        engine_set: EngineSet,
        specs: Sequence[EngineSpec],
        shared: SharedEngines,
    ) -> None:
        self.cuda = cuda
        self.library = library
        self.layout = layout
        self.tensors: Dict[str, TensorSpec] = {
            tensor.value: tensor for spec in specs for tensor in spec.tensors if tensor.value in layout.values
        }
        self.programs = {
            id(subgraph): Program(cpu_subgraph(subgraph, bundle), "%s: %s" % (bundle.path, subgraph.segment.name))
            for subgraph in layout.host_subgraphs
        }
        self.lock = threading.Lock()
        self._shared = shared
        self._set = engine_set
        self._specs = {id(subgraph): spec for subgraph, spec in zip(layout.device_subgraphs, specs)}
        self._distinct = unique(specs)
        self.shared = False
        self._there: Dict[str, Dict[str, Tensor]] = {}
        self._engines: Engines = {}  # the first copy, until it is lent
        self._idle: List[Runners] = []  # of engines that have one engine context
        self._closed = False

    def spec(self, subgraph: Subgraph) -> EngineSpec:
        """The engine that a subgraph on the device needs."""
        return self._specs[id(subgraph)]

    def engine_tensors(self, spec: EngineSpec) -> Dict[str, Tensor]:
        """The inputs and outputs that an engine has, by name: TensorRT may have dropped an input that nothing needs."""
        return self._there[spec.identity]

    def inputs(self) -> List[TensorSpec]:
        """The inputs of every engine."""
        return [tensor for spec in self._specs.values() for tensor in spec.inputs]

    def load_first(self) -> None:
        """Read the engines once, so that what is wrong with them is known. The context must be pushed.

        Raises BackendError where an engine is refused, or is not what its index says.
        """
        self._engines = self._load()
        self._there = {identity: engine.tensors for identity, engine in self._engines.items()}
        self.shared = all(engine.shared for engine in self._engines.values())
        if not self.shared:
            self.give_back(self.lend())  # whether there is memory for it, too

    def runners(self, batch: int, what: str) -> Runners:
        """No engine contexts yet, for an execution context to add its own; only where they are shared. The context must
        be pushed, the lock held. batch: the number of images; what: see Runners."""
        if batch > 1 or not self.library.picks_memory:
            return Runners(self.cuda, self._engines, what)  # some images alone will be run, too
        return Runners(self.cuda, self._engines, what, {s.identity: self.free_shapes(s, 1) for s in self._distinct})

    def free_shapes(self, spec: EngineSpec, batch: int) -> Shapes:
        """The shapes of an engine's inputs that are free, for so many images."""
        there = self._there[spec.identity]
        return tuple(
            (tensor.tensor, sized_shape(tensor.shape, batch))
            for tensor in spec.inputs
            if tensor.tensor in there and -1 in there[tensor.tensor].shape
        )

    def lend(self) -> Runners:
        """An engine context of every engine, by the engine's identity, for one run; only where they are not shared. The
        context must be pushed, the lock held. Raises what `load_first` raises."""
        if self._idle:
            return self._idle.pop()
        engines, self._engines = self._engines or self._load(), {}
        runners = Runners(self.cuda, engines, "a run")
        try:
            for spec in self._distinct:
                runners.add(spec.identity, spec.identity, self.cuda.graphs)
        except BaseException:
            runners.close()
            raise
        return runners

    def give_back(self, runners: Runners) -> None:
        """A run with what was lent is over; nothing of it is under way. The context must be pushed, the lock held."""
        if self._closed:
            runners.close()
        else:
            self._idle.append(runners)

    def close(self) -> None:
        """Drop the engines, and take none back from now on. The context must be pushed, the lock held."""
        self._closed = True
        idle, self._idle = self._idle, []
        for runners in idle:
            runners.close()
        self._engines = {}

    def _load(self) -> Engines:
        engines: Engines = {}
        try:
            for spec in self._distinct:
                key = (self._set.folder, spec.identity)
                engine = engines[spec.identity] = self._shared.loaded.get(key) or self._read(spec)
                if engine.shared:
                    self._shared.loaded[key] = engine
        except BaseException:
            engines.clear()  # whoever holds the error holds this frame
            raise
        return engines

    def _read(self, spec: EngineSpec) -> Engine:
        plan = read_plan(self._set, spec.identity)
        try:
            engine = self.library.engine(plan, spec.subgraph.segment.name)
        except BackendError as error:
            free, total = self.cuda.memory()
            raise BackendError(
                "%s (its plan has %s, and %s of %s of the GPU's memory are free): close other programs that use "
                "the GPU, or run `da3 build --force`"
                % (error, render_bytes(len(plan)), render_bytes(free), render_bytes(total))
            )
        _check_tensors(engine, spec, self._set.folder)
        return engine


def _check_tensors(engine: Engine, spec: EngineSpec, folder: str) -> None:
    """Raise BackendError for an engine whose tensors are not those of its spec."""
    for wanted in spec.tensors:
        tensor = engine.tensors.get(wanted.tensor)
        if tensor is None and wanted in spec.inputs:
            continue  # TensorRT dropped an input that nothing needs
        if tensor is None or (tensor.dtype.name, tensor.layout) != (wanted.dtype, wanted.layout):
            raise BackendError(
                "%s: the engine of %s does not have %s as %s %s: run `da3 build --force`"
                % (folder, spec.subgraph.segment.name, wanted.tensor, wanted.dtype, wanted.layout)
            )
