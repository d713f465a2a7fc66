"""CUDA, as far as running engines needs it: memory, copies, streams, events, and graphs where there are some.

Two packages bring it to Python: cuda-python (newer; has CUDA graphs) and pycuda (what a Jetson has). Both work here
in the device's primary context, the one TensorRT uses too. A thread pushes it before it calls anything else, and pops
it when it is done. Nothing is imported, and no driver touched, before `open_cuda`.
"""

import atexit
import contextlib
import threading
from abc import ABC, abstractmethod
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from ..errors import BackendError
from ..records import Array

_INSTEAD = "or run on the CPU with --backend onnxruntime"


class Gpu(NamedTuple):
    """sm: compute capability without its dot, as in sm_87. driver: the newest CUDA that the driver speaks."""

    name: str
    sm: int
    driver: str


class Host(NamedTuple):
    """Host memory to copy from or to."""

    array: Array
    address: int
    nbytes: int


class BindingMissing(BackendError):
    """The package is not installed."""


class Cuda(ABC):
    """One GPU. Pointers are integers; streams, events and graphs are what the package makes of them.

    Every call but `push` and `current` needs the context pushed by the calling thread, and raises BackendError.
    """

    name = ""
    graphs = False
    gpu: Gpu

    @abstractmethod
    def push(self) -> None: ...

    @abstractmethod
    def pop(self) -> None: ...

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The context pushed while the block runs; may be nested."""
        self.push()
        try:
            yield
        finally:
            self.pop()

    @abstractmethod
    def memory(self) -> Tuple[int, int]:
        """Bytes free and in all."""

    @abstractmethod
    def alloc(self, nbytes: int, what: str) -> int:
        """Device memory, aligned to 256 bytes at least. `what` names its use if there is not enough."""

    @abstractmethod
    def free(self, pointer: int) -> None: ...

    @abstractmethod
    def pinned(self, shape: Sequence[int], dtype: Any) -> Host:
        """Host memory that copies can work from while the host goes on; zeroed."""

    @abstractmethod
    def unpin(self, host: Host) -> None: ...

    @abstractmethod
    def stream(self) -> Any:
        """A stream that does not wait for the default one."""

    @abstractmethod
    def address(self, stream: Any) -> int:
        """The stream as TensorRT takes it."""

    @abstractmethod
    def wait(self, stream: Any) -> None:
        """The host waits until the stream is empty."""

    @abstractmethod
    def event(self) -> Any: ...

    @abstractmethod
    def record(self, event: Any, stream: Any) -> None: ...

    @abstractmethod
    def wait_event(self, event: Any) -> None:
        """The host waits for what was recorded last; not at all if nothing was."""

    @abstractmethod
    def stream_waits(self, stream: Any, event: Any) -> None:
        """What follows in the stream waits for the event; the host does not."""

    @abstractmethod
    def destroy(self, stream_or_event: Any) -> None: ...

    @abstractmethod
    def to_device(self, pointer: int, host: Host, stream: Any) -> None: ...

    @abstractmethod
    def to_host(self, host: Host, pointer: int, stream: Any) -> None: ...

    @abstractmethod
    def copy(self, to: int, source: int, nbytes: int, stream: Any) -> None: ...

    @abstractmethod
    def zero(self, pointer: int, nbytes: int, stream: Any) -> None: ...

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """What `work` puts into the stream, as a graph instead of run."""
        raise BackendError("%s has no CUDA graphs" % self.name)

    def launch(self, graph: Any, stream: Any) -> None:
        raise BackendError("%s has no CUDA graphs" % self.name)

    def drop(self, graph: Any) -> None:
        """Free a graph."""


def open_cuda() -> Cuda:
    """The first GPU, through the better package that works. Raises BackendError with the reason and the way out."""
    from .cuda_python import CudaPython
    from .pycuda import PyCuda

    problems: List[BackendError] = []
    for binding in (CudaPython, PyCuda):
        try:
            return binding()
        except BindingMissing:
            continue
        except BackendError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    raise BackendError(
        "CUDA cannot be reached from this Python: pip install cuda-python, or pycuda on a Jetson; " + _INSTEAD
    )


def out_of_memory(what: str, nbytes: int, cuda: Cuda) -> BackendError:
    """The sentence for memory that there is not."""
    try:
        free, total = cuda.memory()
        left = "%s of %s free" % (size(free), size(total))
    except BackendError:
        left = "and how much is free cannot be told"
    return BackendError(
        "the GPU's memory is too small for %s: %s asked for, %s; close other programs that use the GPU, take smaller "
        "batches, or `da3 build` with a smaller --workspace" % (what, size(nbytes), left)
    )


def size(nbytes: int) -> str:
    """7.4 GiB, 1.5 MiB, 4 KiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if nbytes >= unit:
            return "%.1f %s" % (nbytes / float(unit), name)
    return "%d KiB" % -(-nbytes // 1024)


def cannot_pin(nbytes: int) -> BackendError:
    return BackendError("this machine has no %s of memory left to pin: close other programs" % size(nbytes))


def unusable(detail: str) -> BackendError:
    """The sentence for a driver or GPU that does not answer, from what the package says of it."""
    text = first_line(detail)
    low = text.lower().replace("_", " ")
    if "libcuda.so" in low and "symbol" not in low:
        what = "no NVIDIA driver is installed here (%s): install it"
    elif "cannot open shared object" in low:
        what = "a library of CUDA is missing (%s): install the CUDA that this Python's package was built for"
    elif "no device" in low or "no cuda-capable" in low:
        what = "the NVIDIA driver sees no GPU (%s): look at nvidia-smi and CUDA_VISIBLE_DEVICES"
    elif any(word in low for word in ("mismatch", "combination", "insufficient", "not found", "stub", "symbol")):
        what = "the NVIDIA driver and this CUDA package do not fit each other (%s): update the driver, or reboot if "
        what += "it was just updated, or install the package for the driver's CUDA"
    elif "compat not supported" in low:
        what = "CUDA's forward compatibility does not work on this GPU (%s): remove the cuda-compat package"
    else:
        what = "CUDA does not start (%s): check the driver with nvidia-smi"
    return BackendError("%s, %s" % (what % text, _INSTEAD))


def first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def driver_text(number: int) -> str:
    """12040 -> "12.4"."""
    return "%d.%d" % (number // 1000, number % 1000 // 10)


def host(array: Array) -> Host:
    """A C-contiguous array of the caller's, which must keep it until the copy is done."""
    return Host(array, array.ctypes.data, array.nbytes)


def zeroed(array: Array) -> Host:
    array[...] = np.zeros((), array.dtype)
    return host(array)


# Retained once a process and package, and not released before it ends: what TensorRT keeps for itself would be left
# without its context, and pycuda tells contexts apart by the object.
_contexts: Dict[int, Tuple[Any, Any]] = {}
_lock = threading.Lock()


def primary_context(package: Any, retain: Callable[[], Any]) -> Any:
    """What `retain` gives the first time it is asked for this package."""
    with _lock:
        if id(package) not in _contexts:
            if not _contexts:
                atexit.register(_contexts.clear)
            _contexts[id(package)] = (package, retain())
        return _contexts[id(package)][1]
