"""A gate's way to the host: it is copied on a stream of its own as soon as it is there, beside what follows."""

from typing import Any

from ..cuda.interface import Cuda, Host
from ..records import Array


class GateCopy:
    """The copy of one gate's logits. host: page-locked memory, float32 (batch,); address: where the gate lies on the
    device; stream: where it is computed; copies: the stream for the copy."""

    def __init__(self, cuda: Cuda, host: Host, address: int, *, stream: Any, copies: Any) -> None:
        self._cuda = cuda
        self._host = host
        self._address = address
        self._stream = stream
        self._copies = copies
        self._written = cuda.event()
        self._copied = cuda.event()

    def fetch(self) -> None:
        """Start the copy, behind what is in `stream` by now; the host does not wait."""
        cuda = self._cuda
        cuda.record(self._written, self._stream)
        cuda.stream_waits(self._copies, self._written)
        cuda.to_host(self._host, self._address, self._copies)
        cuda.record(self._copied, self._copies)

    def read(self) -> Array:
        """The logits, float32 (batch,), once the copy is done."""
        self._cuda.wait_event(self._copied)
        return self._host.array

    def close(self) -> None:
        """Free the events. The host memory is the caller's."""
        self._cuda.destroy(self._written)
        self._cuda.destroy(self._copied)
        self._host = self._written = self._copied = None  # type: ignore[assignment]
