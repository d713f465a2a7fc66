"""The machine that a figure is measured on: its processor, its usable cores and the versions installed."""

import os
import platform
from typing import Any, Dict, List

import numpy as np

from .versions import distribution_version


def conditions() -> Dict[str, Any]:
    """The machine and the versions a figure was measured with."""
    return {
        "machine": "%s %s, %s" % (platform.system(), platform.machine(), processor()),
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


# What inference and training are faster with, as Linux calls it: wide vectors, then products of small integers, of
# bfloat16 and of float16; x86 and ARM.
_FEATURES = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "amx_bf16",
) + ("asimd", "neon", "sve", "asimddp", "i8mm", "bf16", "asimdhp", "fphp")


def cpu_features() -> List[str]:
    """Those of the CPU's instructions that matter here; empty where the system does not say."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.lower().startswith(("flags", "features")):
                    has = set(line.split(":", 1)[1].split())
                    return [name for name in _FEATURES if name in has]
    except OSError:
        pass
    return []


def processor() -> str:
    """The name of the CPU."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.lower().startswith(("model name", "hardware")):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
