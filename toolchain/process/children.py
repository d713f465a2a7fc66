"""How one of several processes behaves towards people: the first one speaks for all, torchrun is told what failed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from da3.runtime.errors import Da3Error
from da3.toolchain.errors import TrainingError
from da3.toolchain.process.launch import launched

_LAST_WORDS = 10.0  # seconds
_AGREED = (None, 0, 130)  # exit codes of what all end with together: finished, or stopped
_silent = False

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # what torchrun reads of a process that failed


def take_part(words: list[str], aloud: bool = False) -> None:
    """Get a process ready that may be one of several, with the command line ``words``: all but the first are silent
    unless it is to be ``aloud``. Raises TrainingError for a command that several cannot do together."""
    launch = launched()
    if launch is None or launch.size == 1:
        return
    if launch.rank and not aloud:
        _be_silent()
    if words[:1] != ["train"]:
        raise TrainingError(
            f"torchrun started this as one of {launch.size} processes, which `da3 train` alone is made for: "
            f"run `da3 {' '.join(words[:1])}` without torchrun"
        )


def _be_silent() -> None:
    global _silent
    _silent = True
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)


@contextmanager
def recorded() -> Iterator[None]:
    """What is raised within the block is written down for torchrun, which shows it on the machine where it happened:
    the line of an error that da3 raises on purpose, or a bug's traceback. A silent process then lets the first one
    speak: torchrun ends all of them as soon as one has failed, and is itself what ends the silent ones."""
    try:
        yield
    except BaseException as error:
        _record(error)
        if _silent and not (isinstance(error, SystemExit) and error.code in _AGREED):
            time.sleep(_LAST_WORDS)
        raise


@contextmanager
def heard_out() -> Iterator[None]:
    """What fails within the block is said although torchrun asks this process to end, as it does when another fails.
    A silent process has nothing to say."""
    try:
        yield
    except BaseException:
        if not _silent:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise


def _record(error: BaseException) -> None:
    path = os.environ.get(_ERROR_FILE)
    if not path or isinstance(error, (SystemExit, KeyboardInterrupt)):
        return
    meant = isinstance(error, (Da3Error, OSError))
    words = f"error: {error}" if meant else "".join(traceback.format_exception(error))
    message = {
        "message": f"{type(error).__name__}: {error}",
        "extraInfo": {"py_callstack": words, "timestamp": str(int(time.time()))},
    }
    with suppress(OSError), open(path, "w") as file:
        json.dump({"message": message}, file)
