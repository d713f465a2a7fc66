"""The doctor finds what is wrong and says how to put it right."""

import sys
import time
import types
from importlib.metadata import version

import pytest
from simulation import simulated

from da3.runtime.app import decoding, doctor


@pytest.fixture
def installed(monkeypatch):
    """Pretend exactly these distributions are there."""

    def pretend(**versions):
        versions = {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(doctor, "distribution_version", versions.get)
        monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)

    return pretend


def test_here():
    report = doctor.examine()
    assert report.versions["onnxruntime"].startswith("onnxruntime")
    assert "CPUExecutionProvider" in report.versions["onnxruntime providers"]
    assert "no problems found" in doctor.render(report) or report.problems


def test_the_toolchains_packages_are_named_but_not_imported(call):
    code = "import sys; from da3.runtime.app import doctor; r = doctor.examine(); "
    done = call("-c", code + "print(r.versions['torch'], r.versions['onnx'], {'torch', 'onnx'} & set(sys.modules))")
    assert done.stdout == f"torch {version('torch')} onnx {version('onnx')} set()\n"


def test_both_onnxruntimes(installed):
    installed(onnxruntime="1.31", onnxruntime_gpu="1.31", pillow="12")
    problems = doctor.examine().problems
    assert len(problems) == 1
    assert "overwrite each other" in problems[0] and "pip uninstall -y onnxruntime onnxruntime-gpu" in problems[0]


def test_nothing_installed(installed):
    installed()
    text = doctor.render(doctor.examine())
    assert "no engine is installed: pip install onnxruntime" in text and "pip install pillow" in text


def test_a_broken_onnxruntime(installed, monkeypatch):
    installed(onnxruntime="1.31", pillow="12")
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    assert "installed but does not work" in doctor.examine().problems[0]


@pytest.mark.parametrize(
    "cuda, integrated, expected",
    [
        ("libcuda 10.2", True, "Orin, sm_87, in the system's memory, driver for CUDA 10.2, through libcuda by ctypes"),
        ("pycuda", False, "Orin, sm_87, driver for CUDA 10.2, through pycuda 2022.1"),
        (None, True, None),
    ],
)
def test_the_gpu_and_the_way_to_it(installed, cuda, integrated, expected):
    installed(onnxruntime="1.31", pillow="12")
    with simulated(tensorrt=None, cuda=cuda, integrated=integrated):
        report = doctor.examine()
    assert report.versions["GPU"] == expected and report.problems == []


def test_pkg_resources_is_the_fallback(monkeypatch):
    real = doctor.importlib.import_module
    fake = types.ModuleType("pkg_resources")

    def get(name):
        if name != "numpy":
            raise LookupError(name)
        return types.SimpleNamespace(version="9.9")

    fake.get_distribution = get

    def without_metadata(name):
        if name == "importlib.metadata":
            raise ImportError(name)
        return fake if name == "pkg_resources" else real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", without_metadata)
    assert doctor.distribution_version("numpy") == "9.9"
    assert doctor.distribution_version("torch") is None


def test_the_machine_is_described():
    report = doctor.examine()
    assert "core" in report.versions["CPU"] and report.versions["da3"]
    if sys.platform.startswith("linux"):
        assert "GiB" in report.versions["memory"] or "MiB" in report.versions["memory"]
    assert "free of" in report.versions["disk"] and "photos/s on one core" in report.versions["decoding"]


def test_decoding_is_measured():
    """A reader that sleeps is slower by what it sleeps."""
    found = decoding.measure_decoding(0.05)
    assert found.one > 1 and found.library.startswith("Pillow") and found.threads >= 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "decode", lambda path, at_least: time.sleep(0.02))
        assert 20 < decoding._rate("", 1, 0.1) < 51


def test_what_is_slow_is_no_problem_but_is_said(monkeypatch, tmp_path):
    (tmp_path / "governor").write_text("powersave\n")
    monkeypatch.setattr(decoding, "_GOVERNOR", str(tmp_path / "governor"))
    monkeypatch.setattr(decoding, "_DRIVER", str(tmp_path / "none"))
    monkeypatch.setattr(decoding.os, "cpu_count", lambda: 99)
    slow = decoding._slow(100.0, 110.0, 4)
    assert any("4 threads decode only 1.1 times as fast as one" in sentence for sentence in slow)
    assert any("lowest clock (powersave)" in sentence for sentence in slow)
    assert any("of the machine's 99 cores" in sentence for sentence in slow)
    assert not any("threads decode" in sentence for sentence in decoding._slow(100.0, 390.0, 4))
    text = doctor.render(doctor.Report({"a": "b"}, [], slow))
    assert "slow: " in text and "no problems found" in text


def test_opencv_alone_is_said_to_be_slow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.features", None)
    assert any("OpenCV decodes large JPEGs whole" in sentence for sentence in decoding._slow(1.0, 1.0, 1))
