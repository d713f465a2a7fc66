"""What every way to CUDA must offer here: memory, copies, streams, events, and graphs where it has them.

There are three: the packages cuda-python and pycuda, and the driver's own library by ctypes, which needs no package.
All work in the device's primary context, which TensorRT uses too. A thread pushes that context before it calls anything
else, and pops it when it is done.
"""

import contextlib
from abc import ABC, abstractmethod
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..errors import BackendError
from ..records import Array
from ..system.memory import available_bytes


class Gpu(NamedTuple):
    """sm: the compute capability without its dot, as in sm_87; driver: the newest CUDA that the driver speaks;
    integrated: it has no memory of its own and works in the system's, as a Jetson's does."""

    name: str
    sm: int
    driver: str
    integrated: bool


class Host(NamedTuple):
    """Host memory to copy from or to. array: what lies there; address, nbytes: where, and how much."""

    array: Array
    address: int
    nbytes: int


class BindingMissing(BackendError):
    """A CUDA package is not installed."""


class Cuda(ABC):
    """One GPU. Pointers are integers; streams, events and graphs are what the package makes of them.

    name: the package and its version; graphs: does the package have CUDA graphs? Every call but `push` and `current`
    needs the context pushed by the calling thread. All of them raise BackendError where CUDA fails.
    """

    name = ""
    graphs = False
    gpu: Gpu

    @abstractmethod
    def push(self) -> None:
        """Make the context the calling thread's current one."""

    @abstractmethod
    def pop(self) -> None:
        """Undo the last `push` of the calling thread."""

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The context is pushed while the block runs. Blocks may be nested."""
        self.push()
        try:
            yield
        finally:
            self.pop()

    @abstractmethod
    def memory(self) -> Tuple[int, int]:
        """How many bytes of the GPU's memory are free, and how many there are."""

    def available(self) -> int:
        """How many bytes can be reserved on the GPU.

        An integrated GPU takes them from the system, whose page cache makes room for it: the driver's free memory
        leaves that out (CUDA for Tegra, "Estimating Total Allocatable Device Memory"), MemAvailable does not.
        """
        free, total = self.memory()
        system = available_bytes() if self.gpu.integrated else None
        return free if system is None else min(max(free, system), total)

    @abstractmethod
    def alloc(self, nbytes: int, what: str) -> int:
        """Reserve device memory, aligned to 256 bytes at least. `what` names its use if there is not enough."""

    @abstractmethod
    def free(self, pointer: int) -> None:
        """Free what `alloc` gave."""

    @abstractmethod
    def pinned(self, shape: Sequence[int], dtype: Any) -> Host:
        """Reserve page-locked host memory, which copies can use while the host goes on. Its numbers are 0."""

    @abstractmethod
    def unpin(self, host: Host) -> None:
        """Free what `pinned` gave."""

    @abstractmethod
    def device_address(self, host: Host) -> Optional[int]:
        """Where the device finds memory that `pinned` gave, aligned to 256 bytes at least; None where it cannot."""

    @abstractmethod
    def stream(self) -> Any:
        """Make a stream that does not wait for the default one."""

    @abstractmethod
    def address(self, stream: Any) -> int:
        """The stream as TensorRT takes it."""

    @abstractmethod
    def wait(self, stream: Any) -> None:
        """The host waits until the stream is empty."""

    @abstractmethod
    def event(self) -> Any:
        """Make an event."""

    @abstractmethod
    def record(self, event: Any, stream: Any) -> None:
        """The event stands for what is in the stream by now."""

    @abstractmethod
    def wait_event(self, event: Any) -> None:
        """The host waits for what was recorded last; not at all if nothing was."""

    @abstractmethod
    def stream_waits(self, stream: Any, event: Any) -> None:
        """What follows in the stream waits for the event; the host does not."""

    @abstractmethod
    def destroy(self, stream_or_event: Any) -> None:
        """Free what `stream` or `event` gave."""

    @abstractmethod
    def to_device(self, pointer: int, host: Host, stream: Any) -> None:
        """Put a copy of the host memory to the device into the stream."""

    @abstractmethod
    def to_host(self, host: Host, pointer: int, stream: Any) -> None:
        """Put a copy from the device that fills the host memory into the stream."""

    @abstractmethod
    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None:
        """Put a copy of device memory into the stream."""

    @abstractmethod
    def zero(self, pointer: int, nbytes: int, stream: Any) -> None:
        """Put the clearing of device memory into the stream."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """A graph of what `work` puts into the stream; none of it is run."""
        raise BackendError("%s has no CUDA graphs" % self.name)

    def launch(self, graph: Any, stream: Any) -> None:
        """Put a run of the graph into the stream."""
        raise BackendError("%s has no CUDA graphs" % self.name)

    def drop(self, graph: Any) -> None:
        """Free a graph."""


def host(array: Array) -> Host:
    """A C-contiguous array as host memory. The caller must keep the array until the copy is done."""
    return Host(array, array.ctypes.data, array.nbytes)


def zeroed(array: Array) -> Host:
    """The same, with every number of the array set to 0."""
    array[...] = np.zeros((), array.dtype)
    return host(array)
