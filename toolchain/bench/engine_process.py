"""A process of its own that opens a bundle and answers once: how long until then, and how much memory."""

import json
import os
import subprocess
import sys
import time
from typing import Any

from da3.runtime.errors import BackendError

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
    bundle: str, domain: str, threads: int | None = None, backend: str = "auto", repeats: int = 3
) -> dict[str, Any]:
    """{"startup_ms": from the start of Python to the first answer, median; "memory_bytes": the most the process held;
    "memory_growth_bytes": of that, since da3.runtime and numpy were imported}."""
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
    """Where this process found da3, the other one will."""
    return dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
