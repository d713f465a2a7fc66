"""Percentiles and conditions: what every printed figure comes with."""

import os
import platform
from typing import Any, Dict, Sequence

import numpy as np

from .versions import distribution_version

PERCENTILES = (50, 90, 99)


def percentiles_ms(seconds: Sequence[float]) -> Dict[str, float]:
    """{"p50", "p90", "p99"} in milliseconds; 0 for an empty list."""
    if not len(seconds):
        return {"p%d" % p: 0.0 for p in PERCENTILES}
    values = np.percentile(np.array(seconds, dtype=np.float64) * 1e3, PERCENTILES)
    return {"p%d" % p: float(v) for p, v in zip(PERCENTILES, values)}


def conditions() -> Dict[str, Any]:
    """The machine and the versions a figure was measured with."""
    return {
        "machine": "%s %s, %s" % (platform.system(), platform.machine(), _processor()),
        "cpus": usable_cpus(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": distribution_version("onnxruntime") or distribution_version("onnxruntime-gpu"),
    }


def usable_cpus() -> int:
    """Cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.lower().startswith(("model name", "hardware")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
