"""The one thing a backend must do: turn a segment of a bundle into a function.

    open a segment  ->  call it, any number of times, from any thread  ->  close the backend

A backend may keep values wherever it likes (a numpy array, a device buffer). What one segment returns is
handed to the next as it is; only gates and logits are fetched with `to_host`, and only images and weights are
sent with `to_device`. To add a backend: subclass `Backend` in a file of its own and name it in `choose`.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Callable, List, Optional

from ..errors import BackendError
from ..records import Array, Segment

if TYPE_CHECKING:
    from ..bundle import Bundle

# Inputs in the segment's order -> outputs in the segment's order.
Run = Callable[[List[Any]], List[Any]]

NAMES = ("auto", "onnxruntime")


class Backend(ABC):
    """Base class. `name` is what users type; `threads` None means the library's own choice."""

    name = "none"

    @abstractmethod
    def open(self, segment: Segment, bundle: "Bundle") -> Run:
        """A function for one segment. Several segments may name one file: open the file once.

        Raises BackendError when the file cannot be used, BundleError when it is not the file the manifest
        names.
        """

    def to_device(self, array: Array) -> Any:
        """A float32 C-contiguous array -> what this backend's segments take."""
        return array

    def to_host(self, value: Any) -> Array:
        """What a segment returned -> an array."""
        result: Array = value
        return result

    def close(self) -> None:
        """Let go of everything; may be called twice."""


def choose(name: str = "auto", threads: Optional[int] = None) -> Backend:
    """The backend called `name`; "auto" takes the best one installed."""
    if name not in NAMES:
        raise BackendError("unknown backend %r; known: %s" % (name, ", ".join(NAMES)))
    from .ort import OrtBackend

    return OrtBackend(threads)
