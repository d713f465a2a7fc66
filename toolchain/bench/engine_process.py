"""A new process that opens a bundle and answers once: how long until then, and how much memory it held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from da3.runtime.errors import BackendError
from da3.toolchain.bench.reports import FreshProcess

_PROGRAM = """
import json, sys
import numpy as np
from da3.runtime import Runtime
from da3.runtime.system.memory import peak_bytes
bundle, domain, backend, threads = json.loads(sys.argv[1])
imported = peak_bytes()
runtime = Runtime(bundle, backend=backend, threads=threads)
size = runtime.preprocessing.size
runtime.run_batch(np.zeros((1, 3, size, size), np.float32), runtime.load(domain).name)
print(json.dumps([imported, peak_bytes()]))
"""


def start_fresh(
    bundle: str | os.PathLike[str], domain: str, threads: int | None = None, backend: str = "auto", repeats: int = 3
) -> FreshProcess:
    """Start Python, import numpy and da3.runtime, open `bundle` and answer once; `repeats` times, of which the median.

    Raises BackendError, in one line, where the process fails.
    """
    times: list[float] = []
    for _ in range(repeats):
        words = [sys.executable, "-c", _PROGRAM, json.dumps([os.fspath(bundle), domain, backend, threads])]
        start = time.perf_counter()
        done = subprocess.run(words, capture_output=True, env=_environment())
        times.append(time.perf_counter() - start)
        if done.returncode:
            last = done.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
            raise BackendError(f"a fresh process could not open {bundle}: {last}")
    imported, peak = json.loads(done.stdout.decode().strip().split("\n")[-1])
    return {
        "startup_ms": sorted(times)[len(times) // 2] * 1e3,
        "memory_bytes": peak,
        "memory_growth_bytes": peak - imported,
    }


def _environment() -> dict[str, str]:
    """This process's, in which the new one finds da3 where this one found it."""
    return dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
