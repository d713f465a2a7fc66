"""What glibc's malloc does with freed memory, and that other systems are left alone."""

import json
import platform
import subprocess
import sys

import pytest

from da3.toolchain.process.allocator import forget_code, keep_freed_memory

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


# Forgetting code drops resident pages of files; what was computed before is computed again after it.
CODE = """
import numpy as np, zlib, json
from da3.toolchain.process.allocator import forget_code
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssFile"))
def use():
    return float(np.linalg.norm(np.linspace(0, 1, 64).reshape(8, 8) @ np.eye(8))) + zlib.crc32(b"da3")
expected, before = use(), resident()
assert forget_code()
print(json.dumps([before, resident(), use() == expected]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_forgotten_code_is_no_longer_resident_and_still_runs():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, after, same = json.loads(done.stdout)
    assert same and after < 0.7 * before


def test_code_is_kept_on_other_systems(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not forget_code()
