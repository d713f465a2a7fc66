"""Sizes as users write them, percentiles, memory, and the version's one place."""

import ctypes
import importlib.metadata
import platform
import sys

import numpy as np
import pytest

from da3.runtime.errors import Da3Error
from da3.runtime.system.atomic import write_atomically
from da3.runtime.system.openmp import reserve_openmp
from da3.runtime.system.percentiles import percentiles_ms
from da3.runtime.system.sizes import parse_bytes
from da3.runtime.system.versions import VERSION


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512", 512),
        ("900b", 900),
        ("1k", 1000),
        ("64kb", 64_000),
        ("256MB", 256_000_000),
        ("64 MiB", 64 << 20),
        ("1.5 GiB", 3 << 29),
        ("2Gi", 2 << 30),
        ("1.5GB", 1_500_000_000),
    ],
)
def test_sizes(text, count):
    assert parse_bytes(text, "--workspace") == count


@pytest.mark.parametrize("text", ["", "lots", "MB", "-5MB", "0MB", "0.1", "1TB", "1e3", "5 parsecs", "5iB"])
def test_bad_sizes_name_the_option(text):
    with pytest.raises(Da3Error, match="^--memory-budget .*such as 256MB, 512MiB"):
        parse_bytes(text, "--memory-budget")


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
def test_percentiles_are_those_of_numpy(count):
    seconds = np.random.RandomState(count).exponential(size=count)
    found = percentiles_ms(list(seconds))
    np.testing.assert_allclose([found["p50"], found["p90"], found["p99"]], np.percentile(seconds * 1e3, (50, 90, 99)))


def test_no_times_no_percentiles():
    assert percentiles_ms([]) == {"p50": 0.0, "p90": 0.0, "p99": 0.0}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc")
def test_the_peak_includes_what_was_given_back(call):
    code = (
        "import numpy as np; from da3.runtime.system.memory import peak_bytes; before = peak_bytes()\n"
        "np.ones(before, np.uint8); print(peak_bytes() / before)"
    )
    assert 1.5 < float(call("-c", code).stdout) < 4


def test_the_version_is_that_of_the_package():
    try:
        assert importlib.metadata.version("da3") == VERSION
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("da3 is not installed here")


def test_a_file_is_written_in_one_step_into_a_folder_that_is_made(tmp_path):
    write_atomically(tmp_path / "new" / "x", b"whole")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x"] and (tmp_path / "new" / "x").read_bytes() == b"whole"


def test_openmp_is_loaded_early_on_arm64(monkeypatch):
    loaded = []

    def load(name):
        loaded.append(name)
        raise OSError("not there: that is no problem of ours")

    monkeypatch.setattr(ctypes, "CDLL", load)
    for system, machine in (("linux", "x86_64"), ("darwin", "aarch64"), ("linux", "aarch64")):
        assert loaded == []
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        reserve_openmp()
    assert loaded == ["libgomp.so.1"]
