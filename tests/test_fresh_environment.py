"""The runtime in a fresh environment with numpy and onnxruntime only, as on a device that never trains."""

import json
import shutil
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from da3.export.exporter import export_domain
from da3.runtime import Runtime
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The bin folder of an environment with da3 (no extras) and onnxruntime; skips if they cannot be installed."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=True)
    source = folder / "source"
    wanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "demo-out", "__pycache__")
    shutil.copytree(ROOT, source, ignore=wanted)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    done = subprocess.run(
        [*pip, "-c", str(ROOT / "constraints.txt"), str(source), "onnxruntime"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"cannot install into a fresh environment: {done.stderr.strip().splitlines()[-1:]}")
    return folder / "venv" / "bin"


@pytest.fixture(scope="module")
def bundle(photos, tmp_path_factory):
    """Shared, so never write into it."""
    folder = tmp_path_factory.mktemp("trained")
    options = TrainOptions(
        domain="signs", data=str(photos), runs=folder / "runs", weights="demo", size=32, epochs=1, batch_size=8
    )
    train(options, SilentReporter())
    return export_domain("signs", folder / "runs", folder / "bundle").path


def test_base_install_brings_numpy_alone(fresh):
    listed = subprocess.run([fresh / "python", "-m", "pip", "list", "--format=json"], capture_output=True, text=True)
    names = {p["name"].lower() for p in json.loads(listed.stdout)}
    assert {"da3", "numpy", "onnxruntime"} <= names
    assert not names & {
        "torch",
        "typer",
        "rich",
        "onnx",
        "safetensors",
        "pillow",
        "tensorrt",
        "pycuda",
        "matplotlib",
    }


@pytest.mark.parametrize("command", [["python", "-m", "da3.runtime"], ["da3", "run-engine"]])
def test_runs_a_bundle(command, fresh, bundle, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 40, 50, 3), dtype=np.uint8)
    np.save(tmp_path / "batch.npy", images)
    program = [fresh / command[0], *command[1:], "--bundle", bundle, "--domain", "signs", "--json"]
    done = subprocess.run([*program, tmp_path / "batch.npy"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with Runtime(bundle) as runtime:
        expected = [(p.label, p.blocks_run) for p in runtime.run(images, "signs")]
    assert [(p["label"], p["blocks_run"]) for p in found["predictions"]] == expected


def test_says_what_is_missing(fresh, bundle, photos):
    photo = photos / "val" / "class0" / "0.jpg"
    program = [fresh / "python", "-m", "da3.runtime", "--bundle", bundle, photo]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1 and "pillow" in done.stderr.lower() and "Traceback" not in done.stderr
    done = subprocess.run([fresh / "da3", "train", "--domain", "flowers"], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'da3[train,cpu]'" in done.stderr
    done = subprocess.run([fresh / "da3", "report", bundle], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "error: reports need more packages: pip install 'da3[report]'\n"


def test_templates_of_reports_are_installed(fresh):
    installed = {path.name for path in fresh.parent.glob("lib/python*/site-packages/da3/toolchain/report/templates/*")}
    assert installed == {path.name for path in (ROOT / "toolchain" / "report" / "templates").iterdir()}
