"""Fixtures for the runtime's tests: a synthetic bundle, a place to run subprocesses from."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic_bundle
from pythons import VERSION, candidates, works

import da3.runtime


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """(folder, {domain: weights}); shared, so never write into it."""
    folder = tmp_path_factory.mktemp("built") / "bundle"
    return folder, synthetic_bundle.write_bundle(folder)


@pytest.fixture
def bundle(built, tmp_path):
    """A bundle of one's own to damage."""
    return Path(shutil.copytree(built[0], tmp_path / "bundle"))


@pytest.fixture(scope="session")
def built_with_exits(tmp_path_factory):
    """(folder, {domain: weights}) of a bundle with exits; shared, so never write into it."""
    folder = tmp_path_factory.mktemp("built") / "exits"
    return folder, synthetic_bundle.write_exits_bundle(folder)


@pytest.fixture
def exits_bundle(built_with_exits, tmp_path):
    """A bundle with exits of one's own."""
    return Path(shutil.copytree(built_with_exits[0], tmp_path / "exits"))


@pytest.fixture
def weights(built):
    return built[1]


@pytest.fixture
def runtime(built):
    with da3.runtime.Runtime(built[0]) as opened:
        yield opened


@pytest.fixture(scope="session")
def package_root(tmp_path_factory):
    """A folder to put on PYTHONPATH that holds da3.runtime and nothing else."""
    root = tmp_path_factory.mktemp("root")
    (root / "da3").mkdir()
    (root / "da3" / "runtime").symlink_to(Path(da3.runtime.__file__).parent)
    return root


@pytest.fixture(scope="session")
def call(package_root):
    """call(*arguments, python=..., **kwargs) -> CompletedProcess of `python arguments` that can import
    da3.runtime."""

    def run(*arguments, python=sys.executable, **kwargs):
        env = dict(os.environ, PYTHONPATH=str(package_root))
        command = [str(python), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, **kwargs)

    return run


@pytest.fixture(scope="session")
def python36(tmp_path_factory):
    """A Python 3.6 that has numpy: found, or made in a venv."""
    found = [p for p in candidates() if p and works(p, VERSION)]
    if not found:
        pytest.skip("no Python 3.6: put python3.6 on PATH or its path in DA3_PYTHON36")
    for python in found:
        if works(python, "import numpy"):
            return python
    folder = tmp_path_factory.mktemp("venv36")
    made = subprocess.run([found[0], "-m", "venv", "--without-pip", str(folder)], capture_output=True, timeout=60)
    if made.returncode:
        pytest.skip(f"Python 3.6 makes no venv: {made.stderr[-200:]!r}")
    install("numpy==1.13.3", folder / "lib" / "python3.6" / "site-packages")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def pillow36(python36, tmp_path_factory):
    """What to put on PYTHONPATH so that this Python 3.6 has Pillow: a folder, or nothing where it has."""
    return installed(python36, "PIL", "pillow==8.4.0", tmp_path_factory)


@pytest.fixture(scope="session")
def opencv36(python36, tmp_path_factory):
    """The same for OpenCV, of JetPack 4.6's release."""
    return installed(python36, "cv2", "opencv-python-headless==4.1.1.26", tmp_path_factory)


def installed(python, module, distribution, tmp_path_factory):
    """The folder to put on PYTHONPATH so that this Python has a module: a new one, or nothing where it has it."""
    if works(python, f"import {module}"):
        return ""
    folder = tmp_path_factory.mktemp(module)
    install(distribution, folder)
    return str(folder)


def install(distribution, folder):
    """Put Python 3.6's wheel there, by this Python's pip: 3.6's own knows no wheels of today, and compiles instead."""
    fitting = ["--only-binary=:all:", "--python-version", "3.6", "--platform", f"manylinux2014_{platform.machine()}"]
    words = ["-m", "pip", "install", "-q", "--no-deps", *fitting, "--target", str(folder), distribution]
    done = subprocess.run([sys.executable, *words], capture_output=True, timeout=300)
    if done.returncode:
        pytest.skip(f"pip install {distribution} for Python 3.6 failed: {done.stderr[-200:]!r}")


@pytest.fixture(scope="session")
def backbone_alone(tmp_path_factory):
    """A bundle without domains, of the backbone that da3 brings, at 32 px; shared, so never write into it."""
    from da3.export.segments import deploy
    from da3.runtime.bundle import write_files
    from da3.toolchain.backbones import load_weights, preprocessing_of
    from da3.toolchain.methods import Task, adaptor_spec, method

    arch, size = "mobilenet_v2", 32
    weights = load_weights("demo", arch)
    task = Task(arch=arch, size=size, classes=2, flops_budget=1.0, adaptor=adaptor_spec(arch, weights, size))
    folder = tmp_path_factory.mktemp("alone") / "bundle"
    write_files(folder, deploy(method("da3")(task, weights).model, preprocessing_of(size, weights)).every_file())
    return folder
