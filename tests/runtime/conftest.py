"""Fixtures for the runtime's tests: a synthetic bundle, a place to run subprocesses from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic_bundle

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
