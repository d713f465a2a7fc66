"""A function run in a process of its own that is killed: after a time, or just before its n-th file operation.

File operations are, below a folder: a file opened to be written, anything renamed, removed or made (as Python's audit
hooks see it), every fsync, and two folders that change places. A process that is killed before an fsync can leave its
file torn, with half of what was written, as a power cut may.
"""

import mmap
import os
import signal
import struct
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

from da3.runtime.system import exchanging

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PATHS = {  # of an event: how many of its arguments are paths
    "os.rename": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.truncate": 1,
    "os.link": 2,
}


class Ended(NamedTuple):
    """killed: or did it end by itself? operations: how many it began, the one it died at included."""

    killed: bool
    operations: int


def run_killed(function, folder, *, before=None, torn=False, after_s=None, can_exchange=True, patience_s=300.0):
    """Run `function()` in a forked process -> Ended.

    before: the number, from 1, of the operation below `folder` that it is killed before. torn: if that is an fsync,
    half of the file is lost. after_s: seconds after which it is killed. can_exchange: whether two folders can change
    places in one step. Raises AssertionError, with what it wrote, where it fails by itself.
    """
    count = mmap.mmap(-1, 8)
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            _be_the_child(function, os.path.realpath(folder), before, torn, can_exchange, count, output)
        status = _status_of(child, after_s, patience_s)
        output.seek(0)
        text = output.read().decode(errors="replace")
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0), f"status {status}: {text}"
    return Ended(killed, struct.unpack("q", count[:8])[0])


def _status_of(child, after_s, patience_s):
    """The wait status of the child, which is killed when its time is over."""
    limit = time.monotonic() + (patience_s if after_s is None else after_s)
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > limit:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            assert after_s is not None, f"it did not end in {patience_s} s"
            return status
        time.sleep(0.002)


def _be_the_child(function, folder, before, torn, can_exchange, count, output):
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))  # as pytest has them, nobody would read them
    code = 1
    try:
        _watch(_Counter(count, before, torn), folder, can_exchange)
        function()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Counter:
    """Counts operations, and kills this process before one of them."""

    def __init__(self, count, before, torn):
        self._count, self._before, self._torn = count, before, torn
        self._done = 0

    def operation(self, descriptor=None):
        """descriptor: of a file that is about to be synced."""
        self._done += 1
        self._count[:8] = struct.pack("q", self._done)
        if self._done == self._before:
            if self._torn and descriptor is not None:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def _watch(counter, folder, can_exchange):
    def is_below(path):
        if isinstance(path, int) or not isinstance(path, (str, bytes, os.PathLike)):
            return False
        path = os.fsdecode(path)
        # What is removed with a folder is named without it.
        return not os.path.isabs(path) or os.path.realpath(os.path.dirname(path)).startswith(folder)

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and is_below(path):
                counter.operation()
        elif event in _PATHS and any(is_below(path) for path in arguments[: _PATHS[event]]):
            counter.operation()

    sync, exchanged = os.fsync, exchanging._exchanged

    def watched_sync(descriptor):
        counter.operation(descriptor if os.path.isfile(f"/proc/self/fd/{descriptor}") else None)
        sync(descriptor)

    def watched_exchange(one, other):
        if not can_exchange:
            return None
        counter.operation()
        return exchanged(one, other)

    os.fsync, exchanging._exchanged = watched_sync, watched_exchange
    sys.addaudithook(hook)
