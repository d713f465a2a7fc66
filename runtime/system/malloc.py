"""How glibc's malloc keeps memory that was freed, for a process that runs for hours in a small machine."""

import ctypes
import sys

# Of glibc's malloc.h; the values are C ints.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 64 * 2**10  # bytes: from here on a block is the kernel's own again as soon as it is freed
_TRIM = 128 * 2**10


def keep_little() -> bool:
    """From now on, return what is freed, and let threads share one heap: with one each, photos of many sizes that are
    decoded in threads leave holes in all of them. False where malloc is not glibc's."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is None or not hasattr(libc, "mallopt"):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _TRIM))
    return sum(bool(libc.mallopt(*setting)) for setting in settings) == len(settings)
