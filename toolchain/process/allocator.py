"""What glibc's malloc does with memory that is freed: return it while a network is built, keep it between steps.

glibc maps every large tensor anew and unmaps it when it is freed, so the kernel zeroes the same pages at each step.
Keeping the pages nearly doubles the images per second (docs/method.md). While weights are read and folded, returning
them is better: kept pages would be holes between the tensors that stay, too small for what is allocated later.
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

# An aligned block leaves a remainder of some hundred bytes at its end. Where a thread's cache of small blocks holds
# that remainder, the block cannot merge with its neighbours when it is freed, and the next one of its size does not
# fit: a training process grows by half its working memory. glibc reads this setting only as a process starts.
_TUNABLES, _NO_CACHE = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"


def no_holes_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a process whose freed tensors leave no holes; an equal one where glibc is set up already."""
    given = environment.get(_TUNABLES, "")
    if "tcache_count" in given or not sys.platform.startswith("linux"):
        return dict(environment)
    return {**environment, _TUNABLES: f"{given}:{_NO_CACHE}".lstrip(":")}


def restart_without_holes() -> None:
    """Start this process over in its ``no_holes_environment``, unless it is in one.

    Call it first: what was imported before is imported again.
    """
    environment = no_holes_environment(os.environ)
    if environment != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def return_freed_memory() -> bool:
    """From now on, return memory to the kernel when it is freed. False where malloc is not glibc's."""
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(_M_MMAP_THRESHOLD, _SMALL))


def keep_freed_memory() -> bool:
    """Return what is free now, and from now on nothing. False where malloc is not glibc's."""
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
