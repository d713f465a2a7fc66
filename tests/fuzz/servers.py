"""The processes that run cases: started when the first case needs one, and again when one dies."""

import contextlib
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from . import bases
from .child.running import TOOLCHAIN

# What a process must not do is what a user would not wait for, and what a board with 2 GB has not.
MOST_SECONDS, MOST_MEMORY = 10.0, 2**30
# On a busy machine a case gets less of it in ten seconds, though some: one that used next to nothing waits for ever.
_AGAIN_SECONDS, _WAITS_SECONDS = 30.0, 0.5

_HERE = Path(__file__).resolve().parents[1]


class Servers:
    """``run(case)`` gives the outcome of child/server.py. Usable as a context manager."""

    def __init__(self, python=sys.executable):
        self.python = str(python)
        self._engine = "onnxruntime" if self.python == sys.executable else "reference"
        memory = Path("/dev/shm")
        usable = memory.is_dir() and os.access(memory, os.W_OK)
        self.folder = Path(tempfile.mkdtemp(prefix="da3-fuzz-", dir=memory if usable else None))
        bases.unpack(self.folder / "bases")
        self._started = {}

    def run(self, case):
        outcome = self._ask(case, MOST_SECONDS)
        if outcome["timed_out"] and _WAITS_SECONDS < outcome["cpu_s"] < MOST_SECONDS / 2:
            outcome = self._ask(case, _AGAIN_SECONDS)
        return outcome

    def close(self):
        for process in self._started.values():
            process.stdin.close()
            process.wait()
        self._started = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _ask(self, case, limit):
        kind = "toolchain" if case.runner in TOOLCHAIN else "runtime"
        # Another Python has another engine, if any; and entries are plain tuples on the way there.
        words = [self._engine if word == "onnxruntime" else word for word in case.words]
        fields = case._replace(words=words, entries=[tuple(entry) for entry in case.entries])._asdict()
        request = pickle.dumps((dict(fields), limit), 2)
        for _ in range(2):
            process = self._server(kind)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(struct.pack("<Q", len(request)) + request)
                process.stdin.flush()
                header = process.stdout.read(8)
                if len(header) == 8:
                    return pickle.loads(process.stdout.read(struct.unpack("<Q", header)[0]))
            del self._started[kind]
        raise RuntimeError(f"the process that runs cases died twice of {case.subject}: {case.what}")

    def _server(self, kind):
        if kind not in self._started:
            words = [self.python, "-m", "fuzz.child.server", self.folder / "bases", self.folder]
            self._started[kind] = subprocess.Popen(
                [*map(str, words), *([kind] if kind == "toolchain" else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=_HERE,
                env=_environment(self.python),
            )
        return self._started[kind]


def _environment(python):
    """Where a plain terminal of 80 columns would start da3."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    kept.update(OMP_NUM_THREADS="1", COLUMNS="80", TERM="dumb", PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1")
    # The same da3 as here; another Python finds nothing but the runtime where this one has its packages.
    import da3.runtime

    root = Path(da3.runtime.__path__[0]).parent.parent
    found = [str(_HERE)]
    if python == sys.executable:
        found += [path for path in sys.path if path]
    elif (root / "da3").is_dir():
        found.append(str(root))
    kept["PYTHONPATH"] = os.pathsep.join(found)
    return kept
