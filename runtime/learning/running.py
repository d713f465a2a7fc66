"""Running one derived graph, whatever runs it."""

from abc import ABC, abstractmethod
from typing import Any, Dict, Optional, Union

from ..backends.reference import Program
from ..backends.sessions import first_line, import_onnxruntime, open_step_session
from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..onnx_graph.model import Model
from ..records import Array
from .making import Asked, MadeApart, made_here

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

    def __init__(self, file: Union[bytes, str], threads: Optional[int] = None, as_written: bool = False) -> None:
        """file: the bytes of an ONNX file, or its path; see making.py. threads: None takes those there are."""
        self._session: Any = open_step_session(file, threads, as_written)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

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


class Running:
    """How a run runs its graphs; close it at its end."""

    def __init__(self, backend: str, threads: Optional[int] = None, apart: bool = False) -> None:
        """backend: one of BACKENDS. threads: of the CPU; None takes those there are. apart: graphs are made in a
        process of their own, and kept in files while they are wanted."""
        self.backend, self.threads = backend, threads
        self._made = MadeApart() if apart and backend != "reference" else None

    def open(self, bundle: Bundle, asked: Asked) -> GraphRunner:
        """The graph, ready. Raises BundleError or BackendError."""
        if self.backend == "reference":
            return ReferenceRunner(asked.derive(bundle))
        file = made_here(bundle, asked) if self._made is None else self._made.path(bundle, asked)
        return OnnxRuntimeRunner(file, self.threads, asked.often)

    def close(self) -> None:
        """Remove the files."""
        if self._made is not None:
            self._made.close()


def best_backend() -> str:
    """The fastest that is installed. Raises BackendError where only numpy is: a user should know how slow that is."""
    try:
        import_onnxruntime()
    except BackendError as error:
        raise BackendError("%s; or take --backend reference, which is slow" % error)
    return BACKENDS[0]
