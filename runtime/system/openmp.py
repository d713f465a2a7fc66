"""OpenMP's library on arm64, loaded while there is room for it."""

import ctypes
import platform
import sys


def reserve_openmp() -> None:
    """Load libgomp before TensorRT is. On other systems than Linux on arm64, and where there is none, nothing happens.

    libgomp keeps variables of each thread in a block whose size is set when the process starts. With a glibc before
    2.32 (JetPack 4 and 5) TensorRT's libraries use that block up, and OpenCV, which needs libgomp, then fails to load:
    "cannot allocate memory in static TLS block" (opencv issue 14884). What is loaded first has its place.
    """
    if sys.platform.startswith("linux") and platform.machine() == "aarch64":
        try:
            ctypes.CDLL("libgomp.so.1")
        except OSError:
            pass
