"""The one interface that every backend implements; the scheduler knows no other.

    Backend             open a layout's subgraphs, hold a domain's weights, make contexts, close
    ExecutionContext    bind calls; then for each run: begin, run subgraphs, read gates, read logits, end

A backend is opened once, for one layout of a bundle's plan; what is laid out otherwise is opened on `another`. A
context is what one run at a time needs: a buffer for every value between subgraphs, and calls that were bound to these
buffers beforehand, so that the hot loop allocates nothing and looks nothing up. A context belongs to one thread between
`begin` and `end`; several contexts of one backend may be in use at once. To add a backend, subclass both classes in a
file of its own and name it in `execution.choice`.
"""

from abc import ABC, abstractmethod
from typing import Any, Callable, Optional

from ..bundle.bundle import Bundle
from ..errors import BackendError
from ..records import Array, Domain
from ..schedule.layout import Layout, Subgraph


class ExecutionContext(ABC):
    """Buffers and bound calls for runs of one batch size."""

    @abstractmethod
    def bind(self, subgraph: Subgraph, weights: Any) -> Callable[[], None]:
        """A call that runs the subgraph on every image of the context, reading and writing the context's buffers. One
        that is marked `host` runs in numpy, on what the device has written.

        weights: what `Backend.weights` made of a domain. The call may return before the device is done. It raises
        BackendError when the library fails. Bound calls of several domains may be held and used in turn.
        """

    @abstractmethod
    def bind_rows(self, subgraph: Subgraph, weights: Any) -> Callable[[Array], None]:
        """A call that runs the subgraph on the images of the given rows alone (int64, ascending, not empty), leaving
        the other rows of its outputs as they are."""

    @abstractmethod
    def gate(self, value: str) -> Callable[[], Array]:
        """A call that gives one of the layout's `gates`, float32: the logits of a gate (batch,), or those of an exit
        (batch, classes), as the last subgraph that wrote them left them.

        It waits for those logits alone, not for calls that were started later. The array is the context's, and the next
        run overwrites it.
        """

    @abstractmethod
    def begin(self, images: Array) -> None:
        """Take a run's images, float32 C-contiguous (batch, 3, S, S); the calling thread owns the context now."""

    @abstractmethod
    def read(self, value: str) -> Array:
        """A copy of a value, float32 (batch, ...), once every call that was started is done."""

    def write(self, value: str, array: Array) -> None:
        """Put float32 (batch, ...) in a value's place, as if the subgraph that writes it had run: for running one
        subgraph alone. What reads it is bound already. Raises BackendError where the engine has no place for it."""
        raise BackendError("the backend cannot run a part of the network alone")

    def end(self) -> None:
        """The thread lets go of the context; called after every `begin`, also when a call failed."""

    def close(self) -> None:
        """Free the buffers; not called between `begin` and `end`."""


class Backend(ABC):
    """A library that runs subgraphs. `name` is what users type.

    looks_ahead: whether the device works on while the host goes on, see layout.py. max_batch: how many images one
    context may take, None for any number.
    """

    name = "none"
    looks_ahead = False
    max_batch: Optional[int] = None

    @abstractmethod
    def open(self, layout: Layout, bundle: Bundle) -> None:
        """Make every subgraph of the layout ready to run; called once, before anything else.

        Raises BackendError when a subgraph cannot be used, BundleError when a file is not the one the manifest names.
        """

    def weights(self, domain: Domain) -> Any:
        """The domain's tensors, where subgraphs read them; they live as long as the object that is returned."""
        return domain.weights

    @abstractmethod
    def context(self, batch: int) -> ExecutionContext:
        """A new context for runs of exactly `batch` images."""

    def another(self) -> "Backend":
        """A backend with the same settings, not opened yet."""
        return type(self)()

    def close(self) -> None:
        """Free everything; may be called twice, and while no context is in use."""
