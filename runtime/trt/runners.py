"""Engine contexts that run one after another, and the memory that all of them work in."""

from typing import Any, Dict, Mapping, Optional

from ..cuda.interface import Cuda
from .api import Engine, EngineContext
from .engine_runner import EngineRunner, Shapes
from .tensor_spec import aligned

Engines = Dict[str, Engine]  # by identity: one copy of every engine


class Runners:
    """See the module. by_key: the engine contexts made so far, under the keys that they were asked for with.

    For one run at a time, on one stream. The CUDA context must be pushed for every call.
    """

    def __init__(self, cuda: Cuda, engines: Engines, what: str, shapes: Optional[Mapping[str, Shapes]] = None) -> None:
        """what: names the use of the memory if there is not enough. shapes: by identity, those of each engine's free
        inputs if they will never be others; TensorRT is asked then what memory they take, which is less than the
        engine's greatest shapes would."""
        self.engines = engines
        self.by_key: Dict[Any, EngineRunner] = {}
        self._cuda = cuda
        self._shapes = dict(shapes or {})
        self._sizes = {identity: engine.scratch for identity, engine in engines.items()}
        self._memory = 0
        self._unused: Dict[str, EngineContext] = {}  # by identity: made to be asked
        for identity in [identity for identity in self._shapes if self._shapes[identity] and self._sizes[identity]]:
            self._unused[identity] = self._context(identity)
        scratch = max(self._sizes.values())
        if scratch:
            self._memory = cuda.alloc(aligned(scratch), what)

    def add(self, key: Any, identity: str, graphs: bool) -> None:
        """Make an engine context for an engine, unless there is one under that key. graphs: may its runs be recorded?
        Raises BackendError."""
        if key not in self.by_key:
            context = self._unused.pop(identity, None) or self._context(identity)
            context.work_in(self._memory, self._sizes[identity])
            self.by_key[key] = EngineRunner(self._cuda, context, graphs)

    def close(self) -> None:
        """Free the engine contexts and their memory; nothing may be under way."""
        for runner in self.by_key.values():
            runner.close()
        self.by_key.clear()
        self._unused.clear()
        self.engines = {}
        memory, self._memory = self._memory, 0
        if memory:
            self._cuda.free(memory)

    def _context(self, identity: str) -> EngineContext:
        """An engine context without memory; how much it needs is noted where its shapes are known."""
        engine, shapes = self.engines[identity], self._shapes.get(identity)
        context = engine.bare_context()
        if not shapes or not engine.scratch:
            return context
        size = context.scratch_for(shapes)
        if size:
            self._sizes[identity] = size
            return context
        del self._shapes[identity]  # this one takes what its greatest shapes would
        return engine.bare_context()
