"""Keeping freed memory: a promise to glibc, and nothing anywhere else."""

import platform
import subprocess
import sys

import pytest

from da3.toolchain.process.allocator import keep_freed_memory

# Page faults of a second pass over the same sizes: none are needed where freed memory was kept.
FAULTS = """
import resource, sys
import numpy as np
from da3.toolchain.process.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def use():
    held = [np.ones(4_000_000, np.float32) for _ in range(8)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_freed_memory_is_used_again():
    assert keep_freed_memory() and keep_freed_memory()
    faults = {}
    for mode in ("default", "kept"):
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(done.stdout)
    assert faults["kept"] < 0.1 * faults["default"]


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
