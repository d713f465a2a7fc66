"""Work in a process of its own: it is asked in JSON, answers in lines of JSON, and ends with its parent."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from da3.runtime.errors import Da3Error
from da3.toolchain.process.settings import settled_environment

Answer = dict[str, Any]  # a JSON object, as is a request
Say = Callable[[Answer], None]
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class WorkerError(Da3Error):
    """A worker process ended without finishing its work."""


class Worker:
    """A Python module run as a process, for use as a context manager: leaving it kills what still runs.

    The module's main calls ``serve``. The terminal's Ctrl-C does not reach the process, so that its parent decides.
    """

    def __init__(
        self,
        module: str,
        request: Mapping[str, object],
        threads: int | None = None,
        settings: Mapping[str, str] | None = None,
    ):
        """Start ``python -m module`` and send it ``request``, which JSON can hold.

        ``threads``: how many the libraries use that the module computes with; None leaves that to them. ``settings``:
        what else its environment has.
        """
        environment = settled_environment(os.environ) | dict(settings or {})
        if threads is not None:
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed on exit)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended at once: answers() says why
            self.process.stdin.write(json.dumps(request))
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._errors.close()

    def answers(self) -> Iterator[Answer]:
        """Each answer as it comes. Raises WorkerError, in one line, if the process then ends in failure."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # what a library prints is no answer
                answer = json.loads(line)
                if isinstance(answer, dict):
                    yield answer
        code = self.process.wait()
        if code:
            raise WorkerError(self._reason(code))

    def ask_to_stop(self) -> None:
        """Send SIGTERM, which a module may take as a wish to save and end."""
        self.process.terminate()

    def kill(self) -> None:
        """End the process at once, from any thread; whoever reads ``answers`` gets a WorkerError."""
        with suppress(OSError):
            self.process.kill()

    def _reason(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name
            likely = ", most likely because the memory was full" if name == "SIGKILL" else ""
            return f"its process was killed by {name}{likely}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return lines[-1] if lines else f"its process ended with exit code {code}"


def serve(work: Callable[[Answer, Say], None], orphaned: signal.Signals = signal.SIGKILL) -> None:
    """Main of a worker's module: calls ``work(request, say)``, and exits with one line for an error of da3's own.

    ``orphaned`` is the signal that this process gets when its parent is gone (Linux only).
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, orphaned)
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer

    def say(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        work(request, say)
    except (Da3Error, OSError) as error:
        sys.exit(str(error))
