"""What glibc's malloc does with freed memory, and that other systems are left alone."""

import platform
import subprocess
import sys

import pytest

from da3.toolchain.process.allocator import keep_freed_memory, no_holes_environment

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


def test_the_environment_without_holes_adds_to_what_is_there_and_only_once():
    once = no_holes_environment({"A": "b", "GLIBC_TUNABLES": "glibc.malloc.check=1"})
    expected = "glibc.malloc.check=1:glibc.malloc.tcache_count=0" if sys.platform.startswith("linux") else ""
    assert once["A"] == "b" and once["GLIBC_TUNABLES"].startswith(expected)
    assert no_holes_environment(once) == once


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc alone")
def test_a_process_starts_over_with_its_arguments():
    code = (
        "import os, sys\n"
        "from da3.toolchain.process.allocator import restart_without_holes\n"
        "restart_without_holes()\n"
        "print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, "one", "two"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["glibc.malloc.tcache_count=0", "one", "two"]
