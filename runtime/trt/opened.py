"""A bundle's engines, opened: what the backend and its execution contexts share.

Where an engine can have one engine context only, every execution context needs a copy of the engines of its own. Copies
that no execution context uses are spare, and given to the next one.
"""

import threading
from typing import Dict, List, Sequence

from ..cuda.interface import Cuda
from ..errors import BackendError
from ..schedule.layout import Layout, Subgraph
from ..system.sizes import render_bytes
from .api import Engine, Library
from .engines import EngineSpec, unique
from .store import EngineSet, read_plan
from .tensor_spec import TensorSpec

Engines = Dict[str, Engine]  # by identity: one copy of every engine


class OpenedEngines:
    """See the module. specs: what each subgraph of the layout needs, in the order of `layout.subgraphs`.

    tensors: the spec of every value that crosses subgraphs. lock: to be held while engines are taken, engine contexts
    are made, or the memory of domains changes.
    """

    def __init__(
        self, cuda: Cuda, library: Library, layout: Layout, engine_set: EngineSet, specs: Sequence[EngineSpec]
    ) -> None:
        self.cuda = cuda
        self.library = library
        self.layout = layout
        self.tensors: Dict[str, TensorSpec] = {
            tensor.value: tensor for spec in specs for tensor in spec.tensors if tensor.value in layout.values
        }
        self.lock = threading.Lock()
        self._set = engine_set
        self._specs = {id(subgraph): spec for subgraph, spec in zip(layout.subgraphs, specs)}
        self._distinct = unique(specs)
        self._spare: List[Engines] = []
        self._closed = False

    def spec(self, subgraph: Subgraph) -> EngineSpec:
        """The engine that a subgraph of the layout needs."""
        return self._specs[id(subgraph)]

    def inputs(self) -> List[TensorSpec]:
        """The inputs of every subgraph's engine."""
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
                engines[spec.identity] = self._read(spec)
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
