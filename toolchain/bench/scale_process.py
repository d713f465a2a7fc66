"""A new process that holds so many domains of a bundle, as a server does: what it takes, by how many there are.

    python -m da3.toolchain.bench.scale_process '["bundle", ["flowers-0001", ...], "auto", null]'

It prints one JSON object, a ``HeldDomains``.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from da3.runtime.bundle import closable
from da3.runtime.engine import Runtime
from da3.runtime.errors import BackendError, Da3Error
from da3.runtime.records import Array
from da3.runtime.system import resident_bytes
from da3.toolchain.bench.reports import HeldDomains

_SWITCHES = 500
_LAYOUTS = 4  # other sets of closed blocks that are opened


def hold_domains(
    bundle: str | os.PathLike[str], names: Sequence[str], backend: str = "auto", threads: int | None = None
) -> HeldDomains:
    """Load ``names`` in a new process, answer once with each, and switch between them. Raises BackendError, in a line,
    where that fails."""
    asked = json.dumps([os.fspath(bundle), list(names), backend, threads])
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run([sys.executable, "-m", __name__], input=asked.encode(), capture_output=True, env=environment)
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        raise BackendError(f"a process with {len(names)} domains of {bundle} failed: {last}")
    held: HeldDomains = json.loads(done.stdout.decode().strip().split("\n")[-1])
    return held


def _held(bundle: str, names: Sequence[str], backend: str, threads: int | None) -> HeldDomains:
    with Runtime(bundle, backend=backend, threads=threads) as runtime:
        size = runtime.preprocessing.size
        grey = np.zeros((1, 3, size, size), np.float32)
        runtime.use(names[0])
        runtime.run_batch(grey)
        one = resident_bytes()
        loads: list[float] = []
        for name in names:
            start = time.perf_counter()
            runtime.load(name)
            loads.append(time.perf_counter() - start)
            runtime.run_batch(grey, domain=name)
        switches: list[float] = []
        for name in itertools.islice(itertools.cycle(names), max(_SWITCHES, len(names))):
            start = time.perf_counter()
            runtime.use(name)
            switches.append(time.perf_counter() - start)
        resident = resident_bytes()
        layout_bytes, layout_ms = _other_layouts(runtime, names[0], grey)
        return {
            "one_bytes": one,
            "resident_bytes": resident,
            "load_ms": 1e3 * statistics.median(loads),
            "switch_us": 1e6 * statistics.median(switches),
            "layout_bytes": layout_bytes,
            "layout_ms": layout_ms,
        }


def _other_layouts(runtime: Runtime, name: str, grey: Array) -> tuple[float | None, float | None]:
    """(bytes, milliseconds) for each further set of closed blocks, with its first answer, after one untimed; (None,
    None) where the domain has gates in the place of such."""
    domain = runtime.use(name)
    blocks = sorted(closable(runtime.bundle.manifest.plan) - set(domain.closed))[: _LAYOUTS + 1]
    if domain.gated or len(blocks) < 2:
        return None, None
    before, times = 0, []
    for number, block in enumerate(blocks):
        closing = domain._replace(name=f"{name}-{block}", closed=tuple(sorted({*domain.closed, block})))
        start = time.perf_counter()
        runtime.load(closing)
        runtime.run_batch(grey, domain=closing.name)
        if number:
            times.append(time.perf_counter() - start)
        else:
            before = resident_bytes()
    return (resident_bytes() - before) / len(times), 1e3 * statistics.median(times)


if __name__ == "__main__":
    try:
        print(json.dumps(_held(*json.loads(sys.stdin.read()))))
    except Da3Error as error:
        sys.exit(str(error))
