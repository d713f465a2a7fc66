"""`make kills` in small: a few kills of every command, and full disks. What is killed in the default tests: see
tests/runtime/test_placing.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def run(*words):
    done = subprocess.run([sys.executable, "-m", *words], cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_kills(tmp_path):
    assert " kills, 0 problems" in run("kills", "--count", "24", "--folder", str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may mount a disk to fill")
def test_full_disks(tmp_path):
    assert " disks, 0 problems" in run("kills", "--full", "--only", "calibrate", "--folder", str(tmp_path))


@pytest.mark.slow
def test_soak():
    assert "0 problems" in run("soak", "--minutes", "0.1", "--warm-up", "0.2")
