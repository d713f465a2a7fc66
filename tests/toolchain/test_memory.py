"""Readings of memory are right about tensors of known size."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from da3.toolchain.process import memory
from da3.toolchain.process.memory import growth, live_bytes, peak_bytes, reset_peak
from da3.toolchain.process.settings import settled_environment

CPU = torch.device("cpu")
ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")

# In a process of its own: a peak and an allocator's settings stay for good.
SCRIPT = """
import json, sys, threading, torch
from da3.toolchain.process.allocator import keep_freed_memory
from da3.toolchain.process.memory import growth, live_bytes, peak_bytes, reset_peak
cpu = torch.device("cpu")
torch.ones(9).sum()
if sys.argv[1] == "kept":
    keep_freed_memory()
found, held = {}, []
def measure(name, make):
    before = live_bytes(cpu)
    thread = threading.Thread(target=lambda: held.append(make()))
    thread.start() if name.startswith("thread") else thread.run()
    if thread.ident:
        thread.join()
    found[name] = growth(before, live_bytes(cpu))
measure("large", lambda: torch.ones(4_000_000))
measure("small", lambda: [torch.ones(4_000) for _ in range(1000)])
measure("thread, large", lambda: torch.ones(4_000_000))
measure("thread, small", lambda: [torch.ones(4_000) for _ in range(1000)])
reset_peak(cpu)
before = peak_bytes(cpu)
for _ in range(2):
    torch.ones(10_000_000)
found["peak"] = peak_bytes(cpu) - before
print(json.dumps(found))
"""


@ON_GLIBC
@pytest.mark.parametrize("mode", ["default", "kept"])
def test_known_tensors_are_counted_in_every_arena(mode):
    # As training runs: elsewhere a freed block may not be found again, and the peak is now and then that of two.
    environment = settled_environment(os.environ)
    command = [sys.executable, "-c", SCRIPT, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    peak = found.pop("peak")
    assert set(found) == {"large", "small", "thread, large", "thread, small"}
    for name, size in found.items():
        assert 16_000_000 <= size < 17_000_000, (name, found)
    assert 39_000_000 < peak < 44_000_000  # two after another, not together


@ON_GLIBC
def test_what_was_freed_is_no_longer_counted():
    before = live_bytes(CPU)
    held = torch.ones(4_000_000)
    assert growth(before, live_bytes(CPU)) >= 16_000_000
    del held
    assert live_bytes(CPU) - before < 1_000_000


def test_old_glibc_wraps_and_growth_does_not(monkeypatch):
    def old():
        raise NotImplementedError

    old.restype = memory._Mallinfo
    monkeypatch.setattr(memory, "_mallinfo", lambda: old)
    assert growth(2**32 - 100, 50) == 150


def test_unknown_where_malloc_is_not_glibcs(monkeypatch):
    monkeypatch.setattr(memory, "_mallinfo", lambda: None)
    assert live_bytes(CPU) is None
    assert growth(None, None) is None and growth(None, 5) is None


def test_another_allocator_is_noticed():
    still = memory._Mallinfo2()
    assert not memory._counts(lambda: still)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc")
def test_the_peak_can_be_forgotten():
    assert peak_bytes(CPU) > 10_000_000
    assert reset_peak(CPU) in (True, False)
