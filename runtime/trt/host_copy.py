"""A value's way to the host: it is copied on a stream of its own as soon as it is there, beside what follows; or, where
the GPU works in the system's memory, it is written where the host reads it, and nothing is copied.
"""

from typing import Any

import numpy as np

from ..cuda.interface import Cuda, Host
from ..records import Array


class HostCopy:
    """The copy of one value, a gate's logits or an exit's features. host: page-locked memory, float32 or float16
    (batch, ...); address: where the value lies on the device; stream: where it is computed; copies: the stream for the
    copy.

    done: no copy is under way, nor what it waits for.
    """

    def __init__(self, cuda: Cuda, host: Host, address: int, *, stream: Any, copies: Any) -> None:
        self._cuda = cuda
        self._host = host
        self._array = _full(host)
        self._address = address
        self._stream = stream
        self._copies = copies
        self._written = cuda.event()
        self._copied = cuda.event()
        self.done = True

    def fetch(self) -> None:
        """Start the copy, behind what is in `stream` by now; the host does not wait."""
        cuda = self._cuda
        self.done = False
        cuda.record(self._written, self._stream)
        cuda.stream_waits(self._copies, self._written)
        cuda.to_host(self._host, self._address, self._copies)
        cuda.record(self._copied, self._copies)

    def hold(self) -> None:
        """What follows in `stream` writes the value again, in the same run: it waits until the copy is made."""
        if not self.done:
            self._cuda.stream_waits(self._stream, self._copied)

    def read(self) -> Array:
        """The value, float32 (batch, ...), once the copy is done."""
        self._cuda.wait_event(self._copied)
        self.done = True
        return _read(self._host, self._array)

    def close(self) -> None:
        """Free the events. The host memory is the caller's."""
        self._cuda.destroy(self._written)
        self._cuda.destroy(self._copied)
        self._host = self._array = self._written = self._copied = None  # type: ignore[assignment]


class HostView:
    """A value that the device writes to page-locked memory by itself: see HostCopy. host: that memory; stream: where
    the value is computed.
    """

    def __init__(self, cuda: Cuda, host: Host, *, stream: Any) -> None:
        self._cuda = cuda
        self._host = host
        self._array = _full(host)
        self._stream = stream
        self._written = cuda.event()
        self.done = True

    def fetch(self) -> None:
        """Mark where the value is there."""
        self.done = False
        self._cuda.record(self._written, self._stream)

    def hold(self) -> None:
        """Nothing: no copy is made that what follows could spoil."""

    def read(self) -> Array:
        """The value, float32 (batch, ...), once it is there."""
        self._cuda.wait_event(self._written)
        self.done = True
        return _read(self._host, self._array)

    def close(self) -> None:
        """Free the event. The host memory is the caller's."""
        self._cuda.destroy(self._written)
        self._host = self._array = self._written = None  # type: ignore[assignment]


def _full(host: Host) -> Array:
    """Where the host has a value in float32: in its own memory, if it is float32 there."""
    return host.array if host.array.dtype == np.float32 else np.empty(host.array.shape, np.float32)


def _read(host: Host, full: Array) -> Array:
    if full is not host.array:
        np.copyto(full, host.array)
    return full
