"""Running one derived graph, whatever runs it."""

from abc import ABC, abstractmethod
from typing import Any, Dict, Optional

from ..backends.reference import Program
from ..backends.sessions import first_line, has_pool, import_onnxruntime, open_step_session, use_exact_arena
from ..backends.training_graph import for_this_cpu
from ..errors import BackendError
from ..onnx_graph.model import Model
from ..onnx_graph.writing import write_model
from ..records import Array

BACKENDS = ("onnxruntime", "reference")


class GraphRunner(ABC):
    """A graph ready to run, for one thread at a time."""

    @abstractmethod
    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Inputs by name -> every output by name, in memory of their own. What the graph does not read is left out.

        Raises BackendError where the library fails.
        """

    def close(self) -> None:
        """Free everything."""


class OnnxRuntimeRunner(GraphRunner):
    """A session of its own threads, which do not spin while they wait: a board has other work."""

    def __init__(self, model: Model, threads: Optional[int] = None, often: bool = False) -> None:
        self._inputs = [info.name for info in model.inputs]
        self._outputs = [info.name for info in model.outputs]
        use_exact_arena()
        # One thread is enough to optimise with, and does not make the process's pool.
        data = for_this_cpu(model, None if has_pool() else 1) if often else write_model(model)
        self._session: Any = open_step_session(data, threads, as_written=often)

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        read = {name: feeds[name] for name in self._inputs}
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, read)))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise BackendError("a training step failed: %s" % first_line(error))

    def close(self) -> None:
        self._session = None


class ReferenceRunner(GraphRunner):
    """numpy: slow, and there wherever Python is."""

    def __init__(self, model: Model) -> None:
        self._inputs = [info.name for info in model.inputs]
        self._outputs = [info.name for info in model.outputs]
        self._program = Program(model, "a training step")

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        return dict(zip(self._outputs, self._program.run([feeds[name] for name in self._inputs])))


def best_backend() -> str:
    """The fastest that is installed. Raises BackendError where only numpy is: a user should know how slow that is."""
    try:
        import_onnxruntime()
    except BackendError as error:
        raise BackendError("%s; or take --backend reference, which is slow" % error)
    return BACKENDS[0]


def open_runner(backend: str, model: Model, threads: Optional[int] = None, often: bool = False) -> GraphRunner:
    """The graph on one of BACKENDS. often: it is worth a second or two to make it faster."""
    return ReferenceRunner(model) if backend == "reference" else OnnxRuntimeRunner(model, threads, often)
