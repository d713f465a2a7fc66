"""TensorRT: the engines that `da3 build` made on this device, one for each subgraph of the plan that it runs.

Domains' weights are held once, and engines are where TensorRT lets them; every execution context has memory and streams
of its own, and engine contexts, if they are not lent to it.
A domain is a block of device memory: a bound call tells its engine context where that lies, if the engine context's
last domain was another.
"""

from typing import Optional, Tuple

from ..backends.interface import Backend
from ..bundle.bundle import Bundle
from ..cuda.opening import open_cuda
from ..errors import BackendError
from ..records import Domain
from ..schedule.layout import Layout
from .api import Library
from .context import TensorRTContext
from .opened import OpenedEngines, SharedEngines
from .selection import choose_set
from .store import Device, engines_folder
from .weights import WeightMemory, Weights, pack_weights


class TensorRTBackend(Backend):
    """See the module. engines: the folder they lie in, if not the bundle's; precision: None takes those that were
    built last."""

    name = "tensorrt"
    looks_ahead = True

    def __init__(
        self, engines: Optional[str] = None, precision: Optional[str] = None, shared: Optional[SharedEngines] = None
    ) -> None:
        """shared: that of a backend for another layout of the same bundle."""
        self._folder = engines
        self._precision = precision
        self._shared = shared or SharedEngines()
        self._opened: Optional[OpenedEngines] = None
        self._memory: Optional[WeightMemory] = None

    def open(self, layout: Layout, bundle: Bundle) -> None:
        folder = engines_folder(bundle, self._folder)
        cuda = open_cuda()  # before TensorRT is given anything, see api.py
        library = self._shared.library or Library()
        self._shared.library = library
        device = Device(library.version, cuda.gpu.name, cuda.gpu.sm)
        engine_set, specs = choose_set(folder, layout, bundle, device, typed=library.typed, precision=self._precision)
        self.max_batch = engine_set.options.batch[1]
        self._opened = opened = OpenedEngines(
            cuda,
            library,
            layout=layout,
            bundle=bundle,
            engine_set=engine_set,
            specs=specs,
            shared=self._shared,
        )
        try:
            with cuda.current():
                self._memory = WeightMemory(cuda)
                opened.load_first()
        except BaseException:
            self.close()
            raise

    def weights(self, domain: Domain) -> Weights:
        """The domain's tensors, copied to the device in the types that engines take."""
        opened, memory = self._check_open()
        packed = pack_weights(opened.inputs(), domain.weights)
        with opened.cuda.current(), opened.lock:
            return memory.upload(packed, domain)

    def context(self, batch: int) -> TensorRTContext:
        opened, memory = self._check_open()
        if not 1 <= batch <= (self.max_batch or 1):
            raise BackendError(
                "these engines take 1 to %d images at a time, not %d: run `da3 build --batch 1:%d`"
                % (self.max_batch or 1, batch, batch)
            )
        with opened.cuda.current():
            with opened.lock:
                memory.sweep()
            return TensorRTContext(opened, batch)

    def another(self) -> "TensorRTBackend":
        return TensorRTBackend(self._folder, self._precision, self._shared)

    def close(self) -> None:
        opened, self._opened = self._opened, None
        memory, self._memory = self._memory, None
        if opened is None:
            return
        with opened.cuda.current(), opened.lock:
            if memory is not None:
                memory.free_all()
            opened.close()
            if memory is not None:
                memory.close()

    @property
    def opened_engines(self) -> Optional[OpenedEngines]:
        """What is open, for inspection; None before `open`."""
        return self._opened

    def _check_open(self) -> Tuple[OpenedEngines, WeightMemory]:
        if self._opened is None or self._memory is None:
            raise BackendError("this TensorRT backend is closed, or was not opened")
        return self._opened, self._memory
