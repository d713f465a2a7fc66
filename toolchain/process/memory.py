"""How much memory this process holds now, and held at most: asked of the allocator and of the kernel."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import TYPE_CHECKING, Any

from da3.runtime import system

if TYPE_CHECKING:
    import torch

_CLEAR_REFS = "/proc/self/clear_refs"
_RESET_PEAK = "5"  # of proc(5): sets the peak resident set size to the current one
_WRAP = 2**32  # bytes at which the counters of old glibc start again

# Of glibc's malloc.h, in order; both structures have the same fields.
_FIELDS = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


class _Mallinfo(ctypes.Structure):
    """Before glibc 2.33: its ints wrap at 4 GiB."""

    _fields_ = [(name, ctypes.c_uint) for name in _FIELDS]


def live_bytes(device: torch.device) -> int | None:
    """Bytes allocated and not freed: of PyTorch's allocator on a GPU, of the whole process's malloc on a CPU.

    On a CPU these are the bytes in use of every arena (of every thread) and of mapped blocks; None where malloc is not
    glibc's. Before glibc 2.33 they are modulo 4 GiB: compare two readings with ``growth``.
    """
    if device.type == "cuda":
        return int(_cuda().memory_allocated(device))
    call = _mallinfo()
    if call is None:
        return None
    found = call()
    return int(found.uordblks + found.hblkhd)


def growth(before: int | None, after: int | None) -> int | None:
    """Bytes from one reading of ``live_bytes`` to a later one; None where one of them is.

    Where readings wrap, the later one must be larger by less than 4 GiB.
    """
    if before is None or after is None:
        return None
    call = _mallinfo()
    wraps = call is not None and call.restype is _Mallinfo
    return (after - before) % _WRAP if wraps else after - before


@functools.cache
def _mallinfo() -> Any:
    """glibc's function, or None where there is none, or where another allocator took malloc's place."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    for name, result in (("mallinfo2", _Mallinfo2), ("mallinfo", _Mallinfo)):
        call = getattr(libc, name, None)
        if call is not None:
            call.restype, call.argtypes = result, []
            return call if _counts(call) else None
    return None


def _counts(call: Any) -> bool:
    """Whether what is allocated now shows in what ``call`` reads."""
    before = call()
    held = bytearray(2**20)
    after = call()
    grown = int(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd)
    return grown % _WRAP >= len(held)


def peak_bytes(device: torch.device) -> int:
    """Most bytes held so far, or since ``reset_peak``: of PyTorch's allocator on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return int(_cuda().max_memory_allocated(device))
    return system.peak_bytes()


def reset_peak(device: torch.device) -> bool:
    """Forget the peak so far. False where the system does not allow that: ``peak_bytes`` then still includes it."""
    if device.type == "cuda":
        _cuda().reset_peak_memory_stats(device)
        return True
    try:
        with open(_CLEAR_REFS, "w") as file:
            file.write(_RESET_PEAK)
    except OSError:
        return False
    return True


def _cuda() -> Any:
    """torch.cuda. Imported only here: this room is imported before a process knows whether it needs PyTorch."""
    import torch

    return torch.cuda
