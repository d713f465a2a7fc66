"""Graphs run by ONNX Runtime on the CPU, or by numpy."""

from typing import Any, Dict, Optional, Sequence, Tuple, Union

from ..backends.reference import Program
from ..backends.sessions import empty_arena, first_line, has_pool, open_step_session, use_exact_arena
from ..backends.training_graph import for_this_cpu
from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..onnx_graph.model import Model
from ..onnx_graph.writing import write_model
from ..records import Array
from .answering import Answering, Answers
from .graph_files import GraphFiles
from .making import ANSWERS, STEP, derive
from .runner import GraphRunner
from .running import Running


class OnnxRuntimeRunner(GraphRunner):
    """A session of its own threads, which do not spin while they wait: a board has other work."""

    def __init__(self, file: Union[bytes, str], threads: Optional[int] = None, as_written: bool = False) -> None:
        """file: the bytes of an ONNX file, or its path. threads: None takes those there are. as_written: see
        `open_session`."""
        self._session: Any = open_step_session(file, threads, as_written)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._kept: Dict[str, Array] = {}

    def keep(self, feeds: Dict[str, Array]) -> None:
        self._kept = dict(feeds)

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        read = {name: feeds[name] if name in feeds else self._kept[name] for name in self._inputs}
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
        self._kept: Dict[str, Array] = {}

    def keep(self, feeds: Dict[str, Array]) -> None:
        self._kept = dict(feeds)

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        read = [feeds[name] if name in feeds else self._kept[name] for name in self._inputs]
        return dict(zip(self._outputs, self._program.run(read)))


class CpuRunning(Running):
    """With ONNX Runtime or the reference backend."""

    def __init__(self, backend: str, threads: Optional[int] = None, apart: bool = False) -> None:
        """backend: onnxruntime or reference. threads: of the CPU; None takes those there are. apart: graphs are made in
        a process of their own, and kept in files while they are wanted."""
        self.backend, self.threads = backend, threads
        self._files = GraphFiles() if apart and backend != "reference" else None

    def open(self, kind: str, bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> GraphRunner:
        if self.backend != "reference":
            empty_arena()
        if self._files is not None:
            return OnnxRuntimeRunner(self._files.path(kind, bundle, classes, closed), self.threads, True)
        model = derive(kind, bundle, classes, closed)
        if self.backend == "reference":
            return ReferenceRunner(model)
        if kind != STEP:  # the others are run too seldom to be worth optimising
            return OnnxRuntimeRunner(write_model(model), self.threads)
        use_exact_arena()
        # One thread is enough to optimise with, and does not make the process's pool.
        return OnnxRuntimeRunner(for_this_cpu(model, None if has_pool() else 1), self.threads, True)

    def make(self, kinds: Sequence[str], bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> None:
        """Begin to, while photos are looked at: this returns at once."""
        if self._files is not None:
            self._files.ahead([kind for kind in kinds if kind != ANSWERS], bundle, classes, closed)

    def answers(self, bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> Answers:
        """By the graphs that run the finished domain."""
        if self.backend != "reference":
            empty_arena()
        return Answering(bundle, self.backend)

    def close(self) -> None:
        """Remove the files."""
        if self._files is not None:
            self._files.close()
