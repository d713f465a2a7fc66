"""What glibc's malloc does with memory that is freed: hand it back while a network is built, keep it between steps.

glibc maps every large tensor anew and unmaps it when it is freed, so the kernel zeroes the same pages at each step.
Keeping them nearly doubles the images per second (docs/method.md). While weights are read and folded the opposite is
right: what they leave behind would only be holes between tensors that stay.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

# Of glibc's malloc.h; the values are C ints.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1
_OLD_LIMIT = 32 * 2**20  # glibc before 2.35 refuses a larger mmap threshold
_TOP_PAD = 64 * 2**20
_SMALL = 128 * 2**10  # glibc's own first threshold, which it would raise by itself


# An aligned block leaves a scrap of some hundred bytes at its end. Where a thread's cache of small blocks keeps that
# scrap, the block cannot merge with its neighbours when it is freed, and the next one of its size does not fit: a
# training process grows by half its working memory. glibc reads this setting only as a process starts.
_TUNABLES, _NO_SCRAPS = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"


def no_holes_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a process whose large tensors shall leave no holes; unchanged where that is set already."""
    given = environment.get(_TUNABLES, "")
    if "tcache_count" in given or not sys.platform.startswith("linux"):
        return dict(environment)
    return {**environment, _TUNABLES: f"{given}:{_NO_SCRAPS}".lstrip(":")}


def restart_without_holes() -> None:
    """Start this process over in its ``no_holes_environment``, unless it is in one. Call before anything is imported."""
    environment = no_holes_environment(os.environ)
    if environment != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def return_freed_memory() -> bool:
    """From now on, give tensors back to the kernel when they are freed. False where malloc is not glibc's."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_THRESHOLD, _SMALL))


def keep_freed_memory() -> bool:
    """Give back what is free now, and from now on nothing. False where malloc is not glibc's."""
    libc = _glibc()
    if libc is None:
        return False
    libc.malloc_trim(0)
    if not (libc.mallopt(_M_MMAP_THRESHOLD, _NEVER) or libc.mallopt(_M_MMAP_THRESHOLD, _OLD_LIMIT)):
        return False
    return bool(libc.mallopt(_M_TRIM_THRESHOLD, _NEVER) and libc.mallopt(_M_TOP_PAD, _TOP_PAD))


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
