"""What glibc's malloc does with memory that is freed: return it while a network is built, keep it between steps.

glibc maps every large tensor anew and unmaps it when it is freed, so the kernel zeroes the same pages at each step.
Keeping the pages nearly doubles the images per second (docs/method.md). While weights are read and folded, returning
them is better: kept pages would be holes between the tensors that stay, too small for what is allocated later.
"""

from __future__ import annotations

import ctypes
import sys

# Of glibc's malloc.h; the values are C ints.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_NEVER = 2**31 - 1
_OLD_LIMIT = 32 * 2**20  # glibc before 2.35 refuses a larger mmap threshold
_TOP_PAD = 64 * 2**20
_MADV_DONTNEED = 4  # of Linux's mman-common.h
_SMALL = 128 * 2**10  # glibc's own first threshold, which it would raise by itself


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


def forget_code() -> bool:
    """Unmap the pages of libraries' code that this process has touched; False where that is not known to be safe.

    Loading PyTorch touches some 60 MB of code that training does not run again. What is needed again is mapped from
    the page cache as it is called. Only executable mappings of files are let go: nothing writes to these, while other
    pages of a library may hold addresses that were filled in as it was loaded.
    """
    libc = _glibc()
    if libc is None:
        return False
    try:
        with open("/proc/self/maps") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in lines:
        addresses, permissions, _, _, inode, *path = line.split(maxsplit=5)
        if permissions == "r-xp" and inode != "0" and path:
            start, end = (int(address, 16) for address in addresses.split("-"))
            libc.madvise(start, end - start, _MADV_DONTNEED)
    return True


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
