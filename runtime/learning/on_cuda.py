"""Graphs run by ONNX Runtime's CUDA provider. Its memory is what the provider takes; nothing bounds it here."""

from typing import Any, Dict, Tuple

from ..backends.cuda_session import open_cuda_session
from ..backends.sessions import first_line, import_onnxruntime
from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..onnx_graph.writing import write_model
from ..records import Array
from .making import derive
from .runner import GraphRunner
from .running import Running

USUAL_SLICE = 4  # see on_tensorrt.py


class BoundRunner(GraphRunner):
    """A session whose kept inputs lie on its device."""

    def __init__(self, session: Any, device: str) -> None:
        """device: what ONNX Runtime's OrtValues call it."""
        self._session, self._device = session, device
        self._value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]
        self._kept: Dict[str, Any] = {}

    def keep(self, feeds: Dict[str, Array]) -> None:
        self._kept.clear()  # or else both would be held for a moment
        self._kept = {name: self._value(feeds[name], self._device, 0) for name in self._inputs if name in feeds}

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        try:
            binding = self._session.io_binding()
            for name in self._inputs:
                if name in feeds:
                    binding.bind_cpu_input(name, feeds[name])
                else:
                    binding.bind_ortvalue_input(name, self._kept[name])
            for name in self._outputs:
                binding.bind_output(name, "cpu")
            self._session.run_with_iobinding(binding)
            return dict(zip(self._outputs, binding.copy_outputs_to_cpu()))
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise BackendError("a training step failed on the GPU: %s" % first_line(error))

    def close(self) -> None:
        self._kept.clear()
        self._session = None


class CudaRunning(Running):
    """See the module."""

    usual_slice = USUAL_SLICE

    def open(self, kind: str, bundle: Bundle, classes: int, closed: Tuple[int, ...] = ()) -> GraphRunner:
        return BoundRunner(*open_cuda_session(write_model(derive(kind, bundle, classes, closed))))
