"""The machine that a figure is measured on: its processor, its usable cores and the versions installed."""

import os
import platform
from typing import Any, Dict

import numpy as np

from .versions import distribution_version


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
    """The number of cores this process may use, which can be lower than the machine's."""
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
