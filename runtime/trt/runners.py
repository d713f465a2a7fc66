"""Engine contexts that run one after another, and the memory that all of them work in."""

from typing import Any, Dict

from ..cuda.interface import Cuda
from .api import Engine
from .engine_runner import EngineRunner
from .tensor_spec import aligned

Engines = Dict[str, Engine]  # by identity: one copy of every engine


class Runners:
    """See the module. by_key: the engine contexts made so far, under the keys that they were asked for with.

    For one run at a time, on one stream. The CUDA context must be pushed for every call.
    """

    def __init__(self, cuda: Cuda, engines: Engines, what: str) -> None:
        """what: names the use of the memory if there is not enough."""
        self.engines = engines
        self.by_key: Dict[Any, EngineRunner] = {}
        self._cuda = cuda
        scratch = max(engine.scratch for engine in engines.values())
        self._memory = cuda.alloc(aligned(scratch), what) if scratch else 0

    def add(self, key: Any, identity: str, graphs: bool) -> None:
        """Make an engine context for an engine, unless there is one under that key. graphs: may its runs be recorded?
        Raises BackendError."""
        if key not in self.by_key:
            context = self.engines[identity].context(self._memory)
            self.by_key[key] = EngineRunner(self._cuda, context, graphs)

    def close(self) -> None:
        """Free the engine contexts and their memory; nothing may be under way."""
        for runner in self.by_key.values():
            runner.close()
        self.by_key.clear()
        self.engines = {}
        memory, self._memory = self._memory, 0
        if memory:
            self._cuda.free(memory)
