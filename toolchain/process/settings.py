"""Settings that libraries read as a process starts: for less memory, and for threads that leave the cores to others."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

# An aligned block leaves a remainder of some hundred bytes at its end. Where a thread's cache of small blocks holds
# that remainder, the block cannot merge with its neighbours when it is freed, and the next one of its size does not
# fit: a training process grows by half its working memory.
# Threads that each have an arena of memory of their own keep there what was once the most that they needed: slices side
# by side, and photos that are decoded, then hold a tenth of the process more.
_TUNABLES = "GLIBC_TUNABLES"
_MALLOC = {"glibc.malloc.tcache_count": "0", "glibc.malloc.arena_max": "2"}

# OpenMP's threads wait for each other some milliseconds in a loop before they sleep. Beside another busy process the
# thread that they wait for may not be running at all, and the loop keeps it from its core: training falls to a tenth.
_POLICY, _SLEEP = "OMP_WAIT_POLICY", "PASSIVE"
_WAITING = (_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# MKL keeps the work space of every thread and shape that a product once had.
_POOLS, _NO_POOLS = "MKL_DISABLE_FAST_MM", "1"


def settled_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` with these settings; an equal one where it has them. What the user set stays."""
    found = dict(environment)
    if not sys.platform.startswith("linux"):
        return found
    tunables = found.get(_TUNABLES, "")
    ours = (f"{name}={value}" for name, value in _MALLOC.items() if name not in tunables)
    found[_TUNABLES] = ":".join(filter(None, [tunables, *ours]))
    if not any(name in found for name in _WAITING):
        found[_POLICY] = _SLEEP
    found.setdefault(_POOLS, _NO_POOLS)
    return found


def restart_settled() -> None:
    """Start this process over in its ``settled_environment``, unless it is in one.

    Call it first: what was imported before is imported again.
    """
    environment = settled_environment(os.environ)
    if environment != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
