"""A relay on loopback that counts the bytes of what goes through it, in both directions."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE = 64 << 10


class Counted:
    """port: where to connect in the other's place. ``bytes_sent`` and ``bytes_got`` by those who do."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.bytes_sent = 0
        self.bytes_got = 0

    @property
    def bytes_in_all(self) -> int:
        return self.bytes_sent + self.bytes_got


@contextmanager
def counting_relay(host: str, port: int) -> Iterator[Counted]:
    """Takes connections at a port of its own and passes them on to ``host``:``port``. Raises OSError."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        counted = Counted(listening.getsockname()[1])
        ended = threading.Event()
        threading.Thread(target=_accept, args=(listening, (host, port), counted, ended), daemon=True).start()
        try:
            yield counted
        finally:
            ended.set()
            with suppress(OSError):  # wakes up who waits for the next one
                socket.create_connection(("127.0.0.1", counted.port), 1).close()


def _accept(listening: socket.socket, target: tuple[str, int], counted: Counted, ended: threading.Event) -> None:
    while True:
        try:
            near, _ = listening.accept()
            if ended.is_set():
                near.close()
                return
            far = socket.create_connection(target, 10)
        except OSError:
            return
        threading.Thread(target=_pass_on, args=(near, far, counted, "bytes_sent"), daemon=True).start()
        threading.Thread(target=_pass_on, args=(far, near, counted, "bytes_got"), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, counted: Counted, name: str) -> None:
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            setattr(counted, name, getattr(counted, name) + len(piece))
            target.sendall(piece)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
