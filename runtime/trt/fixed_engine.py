"""An engine with fixed shapes, in memory of its own: arrays in, arrays out. A training step's, for one.

Its tensors lie one behind the other in three regions, each of which is copied at once: inputs that are kept for many
runs (a domain's tensors), inputs of each run, and outputs. The same regions are in page-locked memory of the host. No
tensor lies where another one does, so no run reads what it writes. Gradients are added up on the host: on the device
that would take a second buffer for each, and a kernel.
"""

from typing import Any, Collection, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..cuda.interface import Cuda, Host
from ..errors import BackendError
from ..records import Array
from ..system.sizes import render_bytes
from .api import Engine, Library
from .engine_runner import EngineRunner, Setting
from .formats import LINEAR
from .graph_plans import End, GraphPlan
from .tensor_spec import aligned

_FULL = np.dtype(np.float32)


class FixedEngine:
    """See the module. For one thread at a time."""

    def __init__(self, cuda: Cuda, library: Library, plan: GraphPlan, title: str, kept: Collection[str]) -> None:
        """title: what it is, for messages. kept: the inputs that `keep` takes; `run` takes the others.

        Raises BackendError where TensorRT refuses the plan, or there is too little memory.
        """
        self._cuda, self._title = cuda, title
        self._engine: Optional[Engine] = None
        self._runner: Optional[EngineRunner] = None
        self._stream: Any = None
        self._memory = 0
        self._kept = self._given = self._made = _Region((), 0)
        self.device_bytes = len(plan.data)  # about what the weights take
        try:
            with cuda.current():
                self._open(library, plan, kept)
        except BaseException:
            self.close()
            raise

    def keep(self, feeds: Dict[str, Array]) -> None:
        """Copy the kept inputs to the device, for all runs until the next call. What the engine does not read is left
        out."""
        self._put(self._kept, feeds)
        with self._cuda.current():
            self._to_device(self._kept)
            self._cuda.wait(self._stream)  # or else the next call would write into what is being copied

    def run(self, feeds: Dict[str, Array]) -> Dict[str, Array]:
        """Every output by name, in memory of its own.

        feeds: may have fewer examples than the engine's batch, but all the same number. The engine sees zeros in the
        place of the others, and their rows are cut off its outputs. Raises BackendError where CUDA or TensorRT fails.
        """
        count = self._put(self._given, feeds)
        with self._cuda.current():
            self._to_device(self._given)
            assert self._runner is not None, "closed"
            if self._runner.graph is not None:
                self._cuda.launch(self._runner.graph, self._stream)
            else:
                self._runner.run(self._stream, self._cuda.address(self._stream))
            self._cuda.to_host(self._made.host, self._made.at, self._stream)
            self._cuda.wait(self._stream)
        return {end.name: np.array(_rows(self._made.view(end), end, count)) for end in self._made.ends}

    def close(self) -> None:
        """Free everything."""
        with self._cuda.current():
            if self._stream is not None:
                try:
                    self._cuda.wait(self._stream)  # a run that failed may have left something behind
                except BackendError:
                    pass
            if self._runner is not None:
                self._runner.close()
            self._runner = self._engine = None
            for region in (self._kept, self._given, self._made):
                region.free(self._cuda)
            if self._stream is not None:
                self._cuda.destroy(self._stream)
                self._stream = None
            if self._memory:
                self._cuda.free(self._memory)
                self._memory = 0

    def _open(self, library: Library, plan: GraphPlan, kept: Collection[str]) -> None:
        cuda = self._cuda
        try:
            self._engine = library.engine(plan.data, self._title)
        except BackendError as error:
            free, total = cuda.memory()
            raise BackendError(
                "%s (its plan has %s, and %s of %s of the GPU's memory are free): close other programs that use the GPU"
                % (error, render_bytes(len(plan.data)), render_bytes(free), render_bytes(total))
            )
        self._check(plan)
        there = self._engine.tensors  # TensorRT may have dropped an input that nothing needs
        inputs = [end for end in plan.inputs if end.name in there]
        self._kept = _Region([end for end in inputs if end.name in kept], aligned(self._engine.scratch))
        self._given = _Region([end for end in inputs if end.name not in kept], self._kept.end)
        self._made = _Region(plan.outputs, self._given.end)
        size = self._made.end
        self._memory = cuda.alloc(size, "%s (fewer photos at once, --micro-batch, take less)" % self._title)
        self.device_bytes += size
        self._stream = cuda.stream()
        cuda.zero(self._memory, size, self._stream)
        addresses: List[Tuple[str, int]] = []
        for region in (self._kept, self._given, self._made):
            region.reserve(cuda, self._memory)
            addresses += [(end.name, region.at + region.offsets[end.name]) for end in region.ends]
        # Nothing changes from run to run, so that a thousand kernels are started at once where there are CUDA graphs.
        self._runner = EngineRunner(cuda, self._engine.context(self._memory), cuda.graphs)
        self._runner.settle(Setting(self, None, tuple(addresses), (), ()))
        cuda.wait(self._stream)

    def _check(self, plan: GraphPlan) -> None:
        """Raise BackendError for an engine whose tensors are not those of its graph."""
        assert self._engine is not None
        for end in plan.inputs + plan.outputs:
            tensor = self._engine.tensors.get(end.name)
            if tensor is None and end in plan.inputs:
                continue
            if tensor is None or (tensor.dtype, tensor.shape, tensor.layout) != (_FULL, end.shape, LINEAR):
                raise BackendError(
                    "TensorRT %s made an engine for %s that does not have %s as float32 %s"
                    % (self._engine.library.version, self._title, end.name, list(end.shape))
                )

    def _put(self, region: "_Region", feeds: Dict[str, Array]) -> Optional[int]:
        """Write inputs into the host's memory; the number of examples there are, None where no input has any."""
        count: Optional[int] = None
        for end in region.ends:
            array, room = feeds[end.name], region.view(end)
            if end.rows:
                own = len(array) // end.rows
                assert count in (None, own) and len(array) <= len(room), "%s has %d rows" % (end.name, len(array))
                count = own
                room[len(array) :] = 0
                room = room[: len(array)]
            room[...] = array
        return count

    def _to_device(self, region: "_Region") -> None:
        if region.ends:
            self._cuda.to_device(region.at, region.host, self._stream)


class _Region:
    """Tensors that lie one behind the other, on the device and on the host."""

    def __init__(self, ends: Sequence[End], offset: int) -> None:
        """offset: in the device memory that they will lie in."""
        self.ends = tuple(ends)
        self.offsets: Dict[str, int] = {}
        self.nbytes = 0
        for end in self.ends:
            self.offsets[end.name] = self.nbytes
            self.nbytes += aligned(_nbytes(end.shape))
        self.at, self.end = offset, offset + self.nbytes
        self._host: Optional[Host] = None

    def reserve(self, cuda: Cuda, memory: int) -> None:
        """Take host memory. memory: where the device memory begins."""
        self.at += memory
        if self.ends:
            self._host = cuda.pinned((self.nbytes,), np.uint8)

    @property
    def host(self) -> Host:
        assert self._host is not None
        return self._host

    def view(self, end: End) -> Array:
        """A tensor in the host's memory."""
        at = self.offsets[end.name]
        return self.host.array[at : at + _nbytes(end.shape)].view(_FULL).reshape(end.shape)

    def free(self, cuda: Cuda) -> None:
        """Free the host memory."""
        host, self._host = self._host, None
        if host is not None:
            cuda.unpin(host)


def _nbytes(shape: Tuple[int, ...]) -> int:
    count = int(_FULL.itemsize)
    for n in shape:
        count *= n
    return count


def _rows(array: Array, end: End, count: Optional[int]) -> Array:
    return array if count is None or not end.rows else array[: count * end.rows]
