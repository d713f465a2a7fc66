"""TensorRT: the engines that `da3 build` made on this device, one for each subgraph of the plan.

Engines and domains' weights are held once; every context has contexts, memory and streams of its own. A domain is a
block of device memory: a bound call tells its context where that lies, if the context's last domain was another.
"""

import threading
import weakref
from typing import Any, Dict, List, Optional, Set, Tuple

import numpy as np

from ..backends.interface import Backend
from ..bundle.bundle import Bundle
from ..bundle.plan import BATCH, DOMAIN
from ..cuda.interface import Cuda, host
from ..cuda.opening import open_cuda
from ..errors import BackendError
from ..records import Domain
from ..schedule.layout import Layout, Subgraph, free_sizes
from ..system.sizes import render_bytes
from .api import Engine, Library
from .context import TensorRTContext, aligned, most_bytes
from .engines import FREE, TensorSpec, Wanted, unique
from .store import Device, EngineSet, choose_set, engines_folder, read_plan


class Weights:
    """A domain in device memory. addresses: (plan's name, type) -> where; sizes: free dimension -> its size here;
    token: stands for the domain, and keeps nothing alive."""

    def __init__(self, addresses: Dict[Tuple[str, str], int], sizes: Dict[str, int]) -> None:
        self.addresses = addresses
        self.sizes = sizes
        self.token = object()


class TensorRTBackend(Backend):
    """See the module. engines: the folder they lie in, if not the bundle's; precision: None takes those that were
    built last."""

    name = "tensorrt"
    looks_ahead = True

    def __init__(self, engines: Optional[str] = None, precision: Optional[str] = None) -> None:
        self._folder = engines
        self._precision = precision
        self.lock = threading.Lock()
        self._opened = False
        self._spare: List[Dict[str, Engine]] = []  # copies of the engines that no context uses
        self._upload: Any = None
        self._live: Set[int] = set()  # memory of domains
        self._dead: List[int] = []  # the subgraph of it that nobody holds any more
        self._needs: Dict[int, Wanted] = {}

    def open(self, layout: Layout, bundle: Bundle) -> None:
        folder = engines_folder(bundle, self._folder)
        self.cuda: Cuda = open_cuda()  # before TensorRT is given anything, see trt_api
        self.library = Library()
        gpu = self.cuda.gpu
        self._built, wanted = choose_set(
            folder, layout, bundle, Device(self.library.version, gpu.name, gpu.sm), self._precision
        )
        self.layout = layout
        self.max_batch = self._built.spec.batch[1]
        self._needs = {id(subgraph): need for subgraph, need in zip(layout.subgraphs, wanted)}
        self._wanted = unique(wanted)
        self.values: Dict[str, TensorSpec] = {b.value: b for w in wanted for b in w.specs if b.value in layout.values}
        self._opened = True
        try:
            with self.cuda.current():
                self._upload = self.cuda.stream()
                self._spare.append(self._load())
        except BaseException:
            self.close()
            raise

    def wanted(self, subgraph: Subgraph) -> Wanted:
        """The engine of a subgraph."""
        return self._needs[id(subgraph)]

    def weights(self, domain: Domain) -> Weights:
        """The domain's tensors, copied to the device in the types that engines take."""
        self._check_open()
        sizes = free_sizes(self.layout, domain.weights)
        places: Dict[Tuple[str, str], Tuple[int, Any]] = {}
        end = 0
        for need in self._needs.values():
            for spec in need.inputs:
                key = (spec.value, spec.dtype)
                if not spec.value.startswith(DOMAIN) or key in places:
                    continue
                tensor = domain.weights[spec.value[len(DOMAIN) :]]
                places[key] = (end, tensor)
                end += aligned(tensor.size * np.dtype(spec.dtype).itemsize)
        self._check_sizes(domain, sizes)
        data = np.zeros(max(1, end), np.uint8)
        for (_, dtype), (at, tensor) in places.items():
            flat = _saturated(tensor, np.dtype(dtype)).reshape(-1)
            data[at : at + flat.nbytes] = flat.view(np.uint8)
        with self.cuda.current(), self.lock:
            self._sweep()
            memory = self.cuda.alloc(data.nbytes, "domain %s" % domain.name)
            self._live.add(memory)
            try:
                self.cuda.to_device(memory, host(data), self._upload)
                self.cuda.wait(self._upload)
            except BaseException:
                self._live.discard(memory)
                self.cuda.free(memory)
                raise
        weights = Weights({key: memory + at for key, (at, _) in places.items()}, sizes)
        # Nothing is freed where the garbage collector happens to be: only noted here.
        weakref.finalize(weights, self._dead.append, memory).atexit = False
        return weights

    def context(self, batch: int) -> TensorRTContext:
        self._check_open()
        if not 1 <= batch <= (self.max_batch or 1):
            raise BackendError(
                "these engines take 1 to %d images at a time, not %d: run `da3 build --batch 1:%d`"
                % (self.max_batch or 1, batch, batch)
            )
        with self.cuda.current():
            with self.lock:
                self._sweep()
                if self.library.shares_profiles:
                    engines = self._spare[0]
                else:
                    engines = self._spare.pop() if self._spare else self._load()
            return TensorRTContext(self, batch, engines)

    def give_back(self, engines: Dict[str, Engine]) -> None:
        """A context is done with its engines."""
        if engines and self._opened and not self._spare:
            self._spare.append(engines)

    def rows_bytes(self, batch: int) -> int:
        """Room for the inputs and outputs of any one subgraph that may run on some images only."""
        gated = [
            subgraph for call in self.layout.calls if call.gate is not None for subgraph in (call.subgraph, call.skip)
        ]
        needs = [self.wanted(subgraph) for subgraph in gated if subgraph is not None]
        return max(
            [sum(aligned(most_bytes(b, 1) * batch) for b in n.specs if b.shape[:1] == (BATCH,)) for n in needs] + [0]
        )

    def another(self) -> "TensorRTBackend":
        return TensorRTBackend(self._folder, self._precision)

    def close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        with self.cuda.current(), self.lock:
            self._dead.extend(self._live)
            self._sweep()
            self._spare.clear()
            if self._upload is not None:
                self.cuda.destroy(self._upload)
                self._upload = None

    def _load(self) -> Dict[str, Engine]:
        """A copy of every engine. Raises BackendError where one is refused, or is not what its index says."""
        engines: Dict[str, Engine] = {}
        try:
            for need in self._wanted:
                engines[need.identity] = self._engine(need)
        except BaseException:
            engines.clear()  # whoever holds the error holds this frame
            raise
        return engines

    def _engine(self, need: Wanted) -> Engine:
        plan = read_plan(self._built, need.identity)
        try:
            engine = self.library.engine(plan, need.subgraph.segment.name)
        except BackendError as error:
            free, total = self.cuda.memory()
            raise BackendError(
                "%s (its plan has %s, and %s of %s of the GPU's memory are free): close other programs that use "
                "the GPU, or run `da3 build --force`"
                % (error, render_bytes(len(plan)), render_bytes(free), render_bytes(total))
            )
        _check_specs(engine, need, self._built)
        return engine

    def _check_sizes(self, domain: Domain, sizes: Dict[str, int]) -> None:
        for name, count in sizes.items():
            if not FREE[0] <= count <= FREE[2]:
                raise BackendError(
                    "domain %s has %d %s; TensorRT engines are built for %d to %d: run it with --backend onnxruntime"
                    % (domain.name, count, name, FREE[0], FREE[2])
                )

    def _check_open(self) -> None:
        if not self._opened:
            raise BackendError("this TensorRT backend is closed, or was not opened")

    def _sweep(self) -> None:
        """Free the memory of domains that nobody holds. The lock is held, the context pushed."""
        while self._dead:
            memory = self._dead.pop()
            if memory in self._live:
                self._live.discard(memory)
                self.cuda.free(memory)


def _saturated(tensor: Any, dtype: "np.dtype[np.generic]") -> Any:
    """float32 in another type; what float16 cannot hold becomes its greatest number, not infinity."""
    if dtype == np.float16:
        most = float(np.finfo(np.float16).max)
        tensor = np.clip(tensor, -most, most)
    return np.ascontiguousarray(tensor, dtype=dtype)


def _check_specs(engine: Engine, need: Wanted, engines: EngineSet) -> None:
    for spec in need.specs:
        tensor = engine.tensors.get(spec.tensor)
        if tensor is None and spec in need.inputs:
            continue  # nothing needs it
        if tensor is None or (tensor.dtype.name, tensor.layout) != (spec.dtype, spec.layout):
            raise BackendError(
                "%s: the engine of %s does not have %s as %s %s: run `da3 build --force`"
                % (engines.folder, need.subgraph.segment.name, spec.tensor, spec.dtype, spec.layout)
            )
