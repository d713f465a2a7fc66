"""Registries on loopback: Debian's docker-registry, and one of the tests' own that answers whatever it is told to."""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROGRAM = shutil.which("docker-registry")
USER, PASSWORD = "gardener", "wild-rose-7"
_HTPASSWD = f"{USER}:$2b$04$A2X80/43eOX.pjSs5hI.rOCExIzZgFPI3x1avUcTWPPWWJ2iFWl2y\n"  # bcrypt of PASSWORD


class Served(str):
    """A registry's host, "127.0.0.1:40123", and its log of requests."""

    log: Path

    def requests(self):
        """[(method, path)] of all that it has answered so far, but for what this itself asks."""
        mark = f"/v2/?mark={time.monotonic_ns()}"
        urllib.request.urlopen(f"http://{self}{mark}", timeout=10).close()
        until = time.monotonic() + 10
        while mark not in (text := self.log.read_text()) and time.monotonic() < until:
            time.sleep(0.005)  # it writes a line when the answer is out already
        return [found for found in re.findall(r'"([A-Z]+) (/v2/\S*) HTTP', text) if "mark=" not in found[1]]


@contextmanager
def docker_registry(folder, *, root=None, readonly=False, password=False, tls=None):
    """A docker-registry that keeps what it is given in `root`; it ends with the block, and after ten minutes.

    tls: (certificate, key). The test is skipped where the program is not installed.
    """
    if PROGRAM is None:
        pytest.skip("no docker-registry: apt-get install docker-registry")
    folder.mkdir(exist_ok=True)
    config = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {
            "filesystem": {"rootdirectory": str(root or folder / "root")},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}, "readonly": {"enabled": readonly}},
        },
        "http": {"addr": "127.0.0.1:0"},
    }
    if password:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "basic-realm", "path": str(folder / "htpasswd")}}
    if tls:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    (folder / "config.yml").write_text(json.dumps(config))
    log = folder / "log"
    with log.open("wb") as out:
        command = ["timeout", "--kill-after=1", "600", PROGRAM, "serve", str(folder / "config.yml")]
        started = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 20
        while not (found := re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())):
            assert started.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.01)
        served = Served(found[1])
        served.log = log
        yield served
    finally:
        started.terminate()
        started.wait(10)


class Answer:
    """What a FakeRegistry answers. body: bytes, or an iterable of them; cut: end the connection after so many."""

    def __init__(self, status=200, body=b"", headers=None, cut=None, length=None):
        self.status, self.body, self.headers, self.cut, self.length = status, body, headers or {}, cut, length


@contextmanager
def fake_registry(answer):
    """A server whose every answer is `answer(method, path, headers)`; yields (host, [(method, path, headers)])."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.command, self.path, dict(self.headers)))
            found = answer(self.command, self.path, self.headers)
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            pieces = [found.body] if isinstance(found.body, bytes) else found.body
            if isinstance(found.body, bytes):
                self.send_header("Content-Length", str(len(found.body) if found.length is None else found.length))
            else:
                self.close_connection = True
            self.end_headers()
            try:
                for piece in () if self.command == "HEAD" else pieces:
                    self.wfile.write(piece if found.cut is None else piece[: found.cut])
            except OSError:
                self.close_connection = True  # the client has had enough
            if found.cut is not None or found.length is not None:
                self.close_connection = True

        do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
