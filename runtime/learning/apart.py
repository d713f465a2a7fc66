"""Work done in a process of its own, whose memory is the system's again when it ends."""

import os
import signal
import subprocess
import sys
import time
from typing import Callable, List, Optional, Tuple

from ..errors import BackendError

_CHILD = "import sys; sys.path[:] = %r; from %s import main; sys.exit(main(sys.argv[1:]))"
_TICK = 1.0  # seconds

Tick = Callable[[float], None]


def done_apart(module: str, words: List[str], what: str, tick: Optional[Tick] = None) -> str:
    """Call `main(words)` of a module in another Python; the last line that it prints.

    what: what it makes, for messages. tick: told every second how many have passed. `main` gives an exit status, and
    prints in one line what is wrong if that is not 0. Raises BackendError with this line. What libraries write on
    stderr is passed over where all is well.
    """
    environment = dict(os.environ, MALLOC_MMAP_THRESHOLD_="131072")  # so that glibc hands back what is freed
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD % (sys.path, module)] + words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        universal_newlines=True,
        start_new_session=True,  # Ctrl-C reaches the trainer alone, which stops in good order
    )
    try:
        said, complaints = _heard(child, tick)
    finally:
        if child.poll() is None:  # interrupted
            child.kill()
            child.wait()
    if child.returncode == -signal.SIGKILL:
        raise BackendError(
            "the process that makes %s was killed, most likely because the machine has no memory left: close other "
            "programs, or add swap" % what
        )
    if child.returncode:
        why = _last_line(said) or _last_line(complaints)
        raise BackendError(why or "the process that makes %s ended with %d" % (what, child.returncode))
    return _last_line(said)


def _last_line(text: str) -> str:
    return text.strip().split("\n")[-1].strip()


def _heard(child: "subprocess.Popen[str]", tick: Optional[Tick]) -> Tuple[str, str]:
    """All that the process writes on stdout and stderr until it ends."""
    begun = time.time()
    while True:
        try:
            return child.communicate(timeout=None if tick is None else _TICK)
        except subprocess.TimeoutExpired:
            if tick is not None:
                tick(time.time() - begun)
