"""The one interface that every engine implements; the scheduler knows no other.

    open a layout's parts  ->  hold a domain's weights  ->  lanes: begin, run parts, read gates, read logits, end

A backend is opened once for a bundle. A *lane* is what one run at a time needs: a buffer for every value between
parts, made once, with every call bound to its buffers beforehand, so that the hot loop allocates nothing and looks
nothing up. A lane belongs to one thread between `begin` and `end`; several lanes of one backend may be in use at
once. To add a backend: subclass both in a file of its own and name it in `choose`.
"""

import importlib.util
import os
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Callable, Optional

from ..errors import BackendError
from ..layout import Layout, Part
from ..records import Array, Domain

if TYPE_CHECKING:
    from ..bundle import Bundle

NAMES = ("auto", "onnxruntime", "tensorrt", "reference")


class Lane(ABC):
    """Buffers and bound calls for runs of one batch size."""

    @abstractmethod
    def bind(self, part: Part, weights: Any) -> Callable[[], None]:
        """A call that runs the part on every image of the lane, reading and writing the lane's buffers.

        weights: what `Backend.weights` made of a domain. The call may return before the device is done. It raises
        BackendError when the library fails. Bound calls of several domains may be held and used in turn.
        """

    @abstractmethod
    def bind_rows(self, part: Part, weights: Any) -> Callable[[Array], None]:
        """A call that runs the part on the images of the given rows alone (int64, ascending, not empty), leaving
        the other rows of its outputs as they are."""

    @abstractmethod
    def gate(self, value: str) -> Callable[[], Array]:
        """A call that gives the logits of a gate, float32 (batch,), as the last part that wrote them left them.

        It waits for those logits only, not for what was started since. The array is the lane's: read it at once.
        """

    @abstractmethod
    def begin(self, images: Array) -> None:
        """Take a run's images, float32 C-contiguous (batch, 3, S, S); the calling thread owns the lane now."""

    @abstractmethod
    def read(self, value: str) -> Array:
        """A copy of a value, (batch, ...) float32, when all that was started is done."""

    def end(self) -> None:
        """The thread lets go of the lane; called after every `begin`, also when a call failed."""

    def close(self) -> None:
        """Free the buffers; not called between `begin` and `end`."""


class Backend(ABC):
    """Base class. `name` is what users type.

    looks_ahead: the device works on while the host goes on, see layout.py. max_batch: images that one lane may
    take; None for any number.
    """

    name = "none"
    looks_ahead = False
    max_batch: Optional[int] = None

    @abstractmethod
    def open(self, layout: Layout, bundle: "Bundle") -> None:
        """Make every part of the layout ready to run; called once, before anything else.

        Raises BackendError when a part cannot be used, BundleError when a file is not the one the manifest names.
        """

    def weights(self, domain: Domain) -> Any:
        """The domain's tensors where parts read them. They live as long as what is returned here."""
        return domain.weights

    @abstractmethod
    def lane(self, batch: int) -> Lane:
        """A new lane for runs of exactly `batch` images."""

    def another(self) -> "Backend":
        """A backend with the same settings, not opened yet."""
        return type(self)()

    def close(self) -> None:
        """Let go of everything; may be called twice. No lane is in use."""


def choose(
    name: str = "auto",
    bundle: Optional["Bundle"] = None,
    threads: Optional[int] = None,
    precision: Optional[str] = None,
    engines: Optional[str] = None,
) -> Backend:
    """The backend called `name`, see Runtime for the rest. "auto" takes TensorRT where engines were built for the
    bundle or nothing else is installed, else ONNX Runtime."""
    if name not in NAMES:
        raise BackendError("unknown backend %r; known: %s" % (name, ", ".join(NAMES)))
    if name == "auto":
        name = _best(bundle, engines)
    if name == "reference":
        from .reference import ReferenceBackend

        return ReferenceBackend(precision or "fp32")
    if name == "tensorrt":
        from .trt import TensorRTBackend

        return TensorRTBackend(engines, precision)
    from .ort import OrtBackend

    return OrtBackend(threads, precision or "fp32")


def _best(bundle: Optional["Bundle"], engines: Optional[str]) -> str:
    there = {m for m in ("tensorrt", "onnxruntime") if m in sys.modules or importlib.util.find_spec(m) is not None}
    if not there:
        raise BackendError("no engine is installed: pip install 'da3[cpu]', or take --backend reference, which is slow")
    if "tensorrt" not in there or "onnxruntime" not in there:
        return there.pop()
    folder = engines
    if folder is None and bundle is not None and not bundle.is_zip:
        folder = os.path.join(bundle.path, "engines")
    from ..engine_store import read_sets

    return "tensorrt" if folder is not None and read_sets(folder) else "onnxruntime"
