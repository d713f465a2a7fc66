"""Graphs run by ONNX Runtime on the CPU, or by numpy."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from ..backends.reference import Program
from ..backends.sessions import empty_arena, first_line, has_pool, open_step_session, use_exact_arena
from ..backends.training_graph import for_this_cpu
from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..onnx_graph.model import Model
from ..onnx_graph.writing import write_model
from ..records import Array
from ..system.machine import usable_cpus
from .answering import Answering, Answers
from .graph_files import GraphFiles
from .making import ANSWERS, STEP, derive
from .runner import GraphRunner
from .running import Running

_USUAL_SLICE = 2  # photos: from one to two a MobileNetV2 takes a tenth more memory, and two threads do twice as much


class OnnxRuntimeRunner(GraphRunner):
    """A session of its own threads, which do not spin while they wait: a board has other work."""

    def __init__(
        self, file: Union[bytes, str], threads: Optional[int] = None, as_written: bool = False, lanes: int = 1
    ) -> None:
        """file: the bytes of an ONNX file, or its path. threads: None takes those there are. as_written: see
        `open_session`. lanes: how many runs go side by side at most, which share these threads."""
        threads = usable_cpus() if threads is None else threads
        # A run has the thread that asks for it; the session's others help whoever is at a large node.
        self._session: Any = open_step_session(file, max(1, threads - lanes + 1), as_written)
        self._lanes = ThreadPoolExecutor(lanes) if lanes > 1 else None
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

    def run_side_by_side(self, feeds: Sequence[Dict[str, Array]]) -> List[Dict[str, Array]]:
        if self._lanes is None or len(feeds) < 2:
            return super().run_side_by_side(feeds)
        return list(self._lanes.map(self.run, feeds))

    def close(self) -> None:
        if self._lanes is not None:
            self._lanes.shutdown()
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
    """With ONNX Runtime or the reference backend.

    The nodes of a step are many and small, so threads that share each of them wait for one another a third of the time.
    With a thread for each photo of a slice, or for several of them, they meet at its end alone.
    """

    def __init__(self, backend: str, threads: Optional[int] = None, apart: bool = False, photos: int = 0) -> None:
        """backend: onnxruntime or reference. threads: of the CPU; None takes those there are. apart: graphs are made in
        a process of their own, and kept in files while they are wanted. photos: of a slice; 0 for `usual_slice`."""
        self.backend, self.threads = backend, threads
        if backend != "reference":
            there_are = usable_cpus() if threads is None else threads
            self.usual_slice = min(_USUAL_SLICE, there_are)
            self.lanes = min(photos or self.usual_slice, there_are)
        self._files = GraphFiles() if apart and backend != "reference" else None

    def open(self, kind: str, bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> GraphRunner:
        if self.backend != "reference":
            empty_arena()
        if self._files is not None:
            path = self._files.path(kind, bundle, classes, closed)
            return OnnxRuntimeRunner(path, self.threads, True, self.lanes if kind == STEP else 1)
        model = derive(kind, bundle, classes, closed, small=self.backend != "reference")
        if self.backend == "reference":
            return ReferenceRunner(model)
        if kind != STEP:  # the others are run too seldom to be worth optimising
            return OnnxRuntimeRunner(write_model(model), self.threads)
        use_exact_arena()
        # One thread is enough to optimise with, and does not make the process's pool.
        return OnnxRuntimeRunner(for_this_cpu(model, None if has_pool() else 1), self.threads, True, self.lanes)

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
