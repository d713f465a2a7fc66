"""A bundle's engines, opened: what the backend and its execution contexts share.

Backends for other layouts of the same bundle share engines too: those of equal identity are loaded once. Where an
engine can have one engine context only, every execution context needs a copy of the engines of its own. Copies that no
execution context uses are spare, and given to the next one.
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
from .api import Engine, Library
from .engines import EngineSpec, unique
from .store import EngineSet, read_plan
from .tensor_spec import TensorSpec

Engines = Dict[str, Engine]  # by identity: one copy of every engine


class SharedEngines:
    """What backends for several layouts of one bundle share. library: TensorRT, once one of them has opened it; loaded:
    engines that are held somewhere, by folder and identity, where any number of engine contexts may use one."""

    def __init__(self) -> None:
        self.library: Optional[Library] = None
        self.loaded: MutableMapping[Tuple[str, str], Engine] = weakref.WeakValueDictionary()


class OpenedEngines:
    """See the module. specs: what each subgraph on the device needs, in the order of `layout.device_subgraphs`.

    tensors: the spec of every value that crosses engines; programs: what the subgraphs on the host run, by the id of
    each. lock: to be held while engines are taken, engine contexts are made, or the memory of domains changes.
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
        self._spare: List[Engines] = []
        self._closed = False

    def spec(self, subgraph: Subgraph) -> EngineSpec:
        """The engine that a subgraph on the device needs."""
        return self._specs[id(subgraph)]

    def inputs(self) -> List[TensorSpec]:
        """The inputs of every engine."""
        return [tensor for spec in self._specs.values() for tensor in spec.inputs]

    def load_first(self) -> None:
        """Read the engines once, so that what is wrong with them is known. The context must be pushed.

        Raises BackendError where an engine is refused, or is not what its index says.
        """
        self._spare.append(self._load())

    def take(self) -> Engines:
        """Engines for an execution context: shared ones where they can be. The context must be pushed, the lock held.

        Raises what `load_first` raises.
        """
        if self.library.shares_profiles:
            return self._spare[0]
        return self._spare.pop() if self._spare else self._load()

    def give_back(self, engines: Engines) -> None:
        """An execution context is done with its engines."""
        if engines and not self._closed and not self._spare:
            self._spare.append(engines)

    def close(self) -> None:
        """Drop the spare engines, and take none back from now on. The context must be pushed, the lock held."""
        self._closed = True
        self._spare.clear()

    def _load(self) -> Engines:
        engines: Engines = {}
        try:
            for spec in self._distinct:
                key = (self._set.folder, spec.identity)
                engines[spec.identity] = self._shared.loaded.get(key) or self._read(spec)
                if self.library.shares_profiles:
                    self._shared.loaded[key] = engines[spec.identity]
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
