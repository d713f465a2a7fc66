"""What libraries are told as a process starts: the user's own settings win, and it is told once."""

import subprocess
import sys

import pytest

from da3.toolchain.process.settings import settled_environment

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux alone")
OURS = {
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "MKL_DISABLE_FAST_MM": "1",
}


@ON_LINUX
def test_settings_are_added_to_what_is_there_and_only_once():
    once = settled_environment({"A": "b", "GLIBC_TUNABLES": "glibc.malloc.check=1"})
    assert once == {"A": "b", **OURS, "GLIBC_TUNABLES": "glibc.malloc.check=1:" + OURS["GLIBC_TUNABLES"]}
    assert settled_environment(once) == once


@ON_LINUX
@pytest.mark.parametrize(
    "own",
    [
        {"OMP_WAIT_POLICY": "active"},
        {"GOMP_SPINCOUNT": "100"},
        {"KMP_BLOCKTIME": "1"},
        {"MKL_DISABLE_FAST_MM": "0"},
        {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7:glibc.malloc.arena_max=9"},
    ],
)
def test_the_users_own_settings_win(own):
    found = settled_environment(own)
    assert found.items() >= own.items()
    waiting = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    assert len(waiting & found.keys()) == 1


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert settled_environment({"A": "b"}) == {"A": "b"}


@ON_LINUX
def test_a_process_starts_over_with_its_arguments():
    code = (
        "import os, sys\n"
        "from da3.toolchain.process.settings import restart_settled\n"
        "restart_settled()\n"
        "print(os.environ['GLIBC_TUNABLES'], os.environ['OMP_WAIT_POLICY'], *sys.argv[1:])"
    )
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, "one", "two"], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split() == [OURS["GLIBC_TUNABLES"], "PASSIVE", "one", "two"]
