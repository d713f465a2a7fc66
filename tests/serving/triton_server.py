"""A real Triton: nvidia-pytriton's wheel has the server's binary and its Python backend. Its own API is not used.

It listens on free ports of 127.0.0.1 alone, and ends with `stop`, or after `most_seconds`, or when its starter ends.
"""

import contextlib
import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def server_folder():
    """Where the server is; None where the package is not installed, or not for this Python."""
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "tritonserver"
    return folder if _stub(folder).is_file() and (folder / "bin" / "tritonserver").is_file() else None


def why_not():
    """Why no server can be started here; None where one can."""
    for name in ("pytriton", "tritonclient"):
        if importlib.util.find_spec(name) is None:
            return f"no {name} here: make triton-test runs these tests in an environment of their own"
    return None if server_folder() is not None else "nvidia-pytriton has no server for this Python"


def _stub(folder):
    version = "{}.{}".format(*sys.version_info[:2])
    return folder / "python_backend_stubs" / version / "triton_python_backend_stub"


class Triton:
    """A server, started and ready. http, grpc, metrics: addresses."""

    def __init__(self, models, work, mode="explicit", options=(), most_seconds=300, packages=None):
        """models: the model repository; work: a folder for its log and its backends; options: further ones; packages:
        the folder of what is installed in the server's Python, in the place of what is in this one."""
        folder = server_folder()
        work = Path(work)
        backend = work / "backends" / "python"
        backend.mkdir(parents=True, exist_ok=True)
        for source in [*(folder / "backends" / "python").iterdir(), _stub(folder)]:
            if not (backend / source.name).exists():
                (backend / source.name).symlink_to(source)
        ports = _free_ports(3)
        self.http, self.grpc, self.metrics = (f"127.0.0.1:{port}" for port in ports)
        self.log = work / "triton.log"
        command = [
            str(folder / "bin" / "tritonserver"),
            f"--model-repository={models}",
            f"--backend-directory={backend.parent}",
            f"--model-control-mode={mode}",
            *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
            *(f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports, strict=True)),
            "--exit-timeout-secs=5",
            *options,
        ]
        libraries = folder.parents[1] / "nvidia_pytriton.libs"
        env = dict(os.environ, LD_LIBRARY_PATH=f"{libraries}:{sysconfig.get_config_var('LIBDIR')}")
        # The backend's process is a Python of its own, which is told where this one has its packages. da3 is not among
        # them: what is tested is the runtime that lies in the repository.
        env["PYTHONPATH"] = str(packages or sysconfig.get_path("purelib"))
        home = Path(sys.executable).parent if packages is None else Path(sys.base_prefix) / "bin"
        env["PATH"] = f"{home}:{env['PATH']}"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["timeout", "--signal=KILL", str(most_seconds), *command],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_the_starter,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def processes(self):
        """{process id: its name} of the server and what it has started."""
        children = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    children.setdefault(int(status[1]), []).append(int(entry.name))
        found = list(children.get(self.process.pid, []))
        for pid in found:
            found += children.get(pid, [])
        names = {}
        for pid in found:
            with contextlib.suppress(OSError):  # it has ended meanwhile
                names[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
        return names

    @property
    def stubs(self):
        """The process ids of the Python backend."""
        return [pid for pid, name in self.processes.items() if "stub" in name or "triton_python" in name]

    def text(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        ended = list(self.processes)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pid in ended:  # a stub is in a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    def _wait(self):
        import tritonclient.grpc

        until = time.monotonic() + 60
        with tritonclient.grpc.InferenceServerClient(self.grpc) as client:
            while True:
                with contextlib.suppress(tritonclient.grpc.InferenceServerException):
                    if client.is_server_live():
                        return
                if self.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"Triton did not start:\n{self.text()[-3000:]}")
                time.sleep(0.1)


def _end_with_the_starter():
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
