"""A camera on loopback: an RTSP server that sends JPEGs at a steady rate, as a network camera does.

RTSP 1.0 (RFC 2326) with RTP inside its TCP connection (section 10.12), and JPEG in RTP (RFC 2435): what OpenCV's FFmpeg
and GStreamer play, with nothing to install. It listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

PACKET = 1400  # bytes of a JPEG's scan in an RTP packet
CLOCK = 90000  # ticks a second of RTP's timestamps for video
JPEG_PAYLOAD = 26  # RFC 3551


class Scan(NamedTuple):
    """What RTP sends of a JPEG. kind: 0 for 4:2:2, 1 for 4:2:0 (RFC 2435, 4.1). tables: its two quantisation tables."""

    width: int
    height: int
    kind: int
    tables: bytes
    data: bytes


class LoopbackCamera:
    """The server, in threads of its own, until ``close``.

    Every connection is played ``frames`` from the first one on, over and over, or as many as ``most`` says and then the
    end. ``on_play`` is told ``time.monotonic()`` of the first frame of each: frame n is sent n / fps later.
    """

    def __init__(
        self,
        frames: Sequence[bytes],
        fps: float = 30.0,
        most: int | None = None,
        on_play: Callable[[float], None] | None = None,
    ):
        """``frames``: baseline JPEGs with the standard's Huffman tables, all of one size, its sides multiples of 8."""
        self.frames = [parse_jpeg(frame) for frame in frames]
        self.fps = fps
        self.most = most
        self.on_play = on_play
        self.played = 0  # connections that were played to
        self.silent = False  # while it is set, nothing is sent, and connections stay
        self._accepting = True
        self._closed = False
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/camera"

    def drop(self, accepting: bool = True) -> None:
        """Cut every connection, as a camera does that loses its power; ``accepting``: whether it takes new ones."""
        with self._lock:
            self._accepting = accepting
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self._listening.close()
        self.drop(accepting=False)

    def __enter__(self) -> LoopbackCamera:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            if not self._accepting:
                connection.close()
                continue
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Session(self, connection).run()
        with self._lock:
            self._connections.discard(connection)


class _Session:
    """One connection: requests are answered, and frames are sent between the answers."""

    def __init__(self, camera: LoopbackCamera, connection: socket.socket):
        self.camera = camera
        self.connection = connection
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.sequence = 0

    def run(self) -> None:
        waiting = b""
        try:
            while True:
                received = self.connection.recv(4096)
                if not received:
                    return
                waiting += received
                while True:
                    if waiting[:1] == b"$":  # what the player reports of its reception (RTCP), of which nothing follows
                        length = 4 + int.from_bytes(waiting[2:4], "big")
                        if len(waiting) < max(4, length):
                            break
                        waiting = waiting[length:]
                    elif b"\r\n\r\n" in waiting:
                        request, waiting = waiting.split(b"\r\n\r\n", 1)
                        if not self.answer(request.decode("ascii", "replace")):
                            return
                    else:
                        break
        finally:
            self.ended.set()

    def answer(self, request: str) -> bool:
        """Answer a request; False after the last one."""
        method = request.split(" ", 1)[0]
        number = re.search(r"^CSeq: *(\d+)", request, re.M | re.I)
        lines = [f"CSeq: {number.group(1) if number else 0}"]
        body = b""
        if method == "OPTIONS":
            lines.append("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        elif method == "DESCRIBE":
            body = self.description()
            lines += [
                f"Content-Base: {self.camera.url}/",
                "Content-Type: application/sdp",
                f"Content-Length: {len(body)}",
            ]
        elif method == "SETUP" and "interleaved" not in request:
            self.say("RTSP/1.0 461 Unsupported Transport", lines)
            return True
        elif method == "SETUP":
            lines += ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1"]
        else:
            lines.append("Session: 1")
        self.say("RTSP/1.0 200 OK", lines, body)
        if method == "PLAY":
            threading.Thread(target=self.play, daemon=True).start()
        return method != "TEARDOWN"

    def description(self) -> bytes:
        first = self.camera.frames[0]
        lines = [
            "v=0",
            "o=- 0 0 IN IP4 127.0.0.1",
            "s=camera",
            "c=IN IP4 127.0.0.1",
            "t=0 0",
            f"m=video 0 RTP/AVP {JPEG_PAYLOAD}",
            f"a=framerate:{self.camera.fps:g}",
            f"a=x-dimensions:{first.width},{first.height}",
            "a=control:video",
        ]
        return "".join(line + "\r\n" for line in lines).encode()

    def say(self, status: str, lines: Sequence[str], body: bytes = b"") -> None:
        with self.lock:
            self.connection.sendall("\r\n".join((status, *lines, "", "")).encode() + body)

    def play(self) -> None:
        start = time.monotonic()
        self.camera.played += 1
        if self.camera.on_play is not None:
            self.camera.on_play(start)
        number = 0
        try:
            while number != self.camera.most:
                if self.ended.wait(max(0.0, start + number / self.camera.fps - time.monotonic())):
                    return
                if self.camera.silent:
                    number += 1
                    continue
                frame = self.camera.frames[number % len(self.camera.frames)]
                packets = self.packets(frame, int(number * CLOCK / self.camera.fps))
                with self.lock:
                    self.connection.sendall(packets)
                number += 1
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def packets(self, frame: Scan, timestamp: int) -> bytes:
        """The frame as RTP packets, each with the four bytes before it that a TCP connection wants."""
        packed = bytearray()
        for offset in range(0, len(frame.data), PACKET):
            piece = frame.data[offset : offset + PACKET]
            last = offset + PACKET >= len(frame.data)
            head = struct.pack(
                ">BBHII", 0x80, JPEG_PAYLOAD | (0x80 if last else 0), self.sequence, timestamp & 0xFFFFFFFF, 1
            )
            # Quality 255 says that the tables come with the first packet of each frame.
            head += struct.pack(">IBBBB", offset, frame.kind, 255, frame.width // 8, frame.height // 8)
            if offset == 0:
                head += struct.pack(">BBH", 0, 0, len(frame.tables)) + frame.tables
            self.sequence = (self.sequence + 1) & 0xFFFF
            packed += struct.pack(">BBH", 0x24, 0, len(head) + len(piece)) + head + piece
        return bytes(packed)


def parse_jpeg(data: bytes) -> Scan:
    """What is sent of a JPEG. Raises ValueError for one that RFC 2435 has no way to send."""
    position, size, kind, tables = 2, (0, 0), -1, {}
    while position + 4 <= len(data):
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xDB:
            for start in range(0, len(content) - 64, 65):
                tables[content[start]] = content[start + 1 : start + 65]
        elif marker == 0xC0:
            height, width = struct.unpack(">HH", content[1:5])
            size, kind = (width, height), {0x21: 0, 0x22: 1}.get(content[7], -1)
        elif marker == 0xDA:
            break
    width, height = size
    if kind < 0 or set(tables) != {0, 1} or width % 8 or height % 8 or not 0 < max(size) <= 2040:
        raise ValueError("RTP sends baseline JPEGs in 4:2:0 or 4:2:2, their sides multiples of 8 and at most 2040")
    end = data.rindex(b"\xff\xd9")
    return Scan(width, height, kind, tables[0] + tables[1], data[position:end])
