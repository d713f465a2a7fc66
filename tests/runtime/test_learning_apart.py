"""The command on a simulated board, whose engines are built by processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from simulation import simulated
from small_runs import untimed

from da3.runtime.bundle import Bundle
from da3.runtime.errors import BackendError
from da3.runtime.learning import LearnOptions, apart, learn
from da3.runtime.training import Reporter
from da3.runtime.training.checkpoint import read

TESTS = Path(__file__).resolve().parents[1]
SITE = """
import atexit
from simulation import simulated

board = simulated(%s, leaks=False)
board.__enter__()
atexit.register(board.__exit__, None, None, None)
"""


@pytest.fixture
def board(package_root, tmp_path):
    """board(**simulation) -> the environment of a Python where TensorRT and CUDA are the doubles."""

    def make(**simulation):
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        words = ", ".join(f"{name}={value!r}" for name, value in simulation.items())
        (folder / "sitecustomize.py").write_text(SITE % words)
        path = os.pathsep.join(map(str, (folder, package_root, TESTS)))
        return dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1")

    return make


@pytest.fixture
def command(backbone_alone, photos, tmp_path):
    """command(*more): words that learn 3 classes on a bundle of the test's own."""
    home = shutil.copytree(backbone_alone, tmp_path / "bundle")

    def make(*more):
        words = [sys.executable, "-m", "da3.runtime", "learn", "--domain", "stripes", "--bundle", str(home)]
        return [*words, "--backend", "tensorrt", "--batch-size", "8", "--workers", "1", str(photos), *more]

    return make


def run(words, env, folder):
    return subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, timeout=120)


def test_learns_by_engines_that_were_built_apart(board, command, tmp_path):
    env = board(tensorrt="8.2.1", cuda="pycuda", gpu="Tegra X1", sm=53)
    done = run(command("--epochs", "1", "--precision", "fp16"), env, tmp_path)
    assert done.returncode == 0, done.stderr
    built = [line for line in done.stderr.splitlines() if line.startswith("built the engine for ")]
    assert [line.rpartition(" in ")[0] for line in built] == [
        "built the engine for what is measured before the first step",
        "built the engine for a training step",
        "built the engine for the answers to validation photos",
    ]
    assert "epoch 1/1  loss" in done.stderr and "domain stripes is in" in done.stdout
    with Bundle(tmp_path / "bundle") as bundle:
        assert bundle.domains == ["stripes"]
    names = {path.name.partition("-")[0] for path in (tmp_path / "bundle" / "engines" / "learning").iterdir()}
    assert names == {"observation", "step", "answers"}
    again = run(command("--epochs", "1", "--precision", "fp16", "--overwrite"), env, tmp_path)
    assert again.returncode == 0 and "built the engine" not in again.stderr


@pytest.mark.parametrize(
    ("simulation", "message"),
    [
        ({"tensorrt": "8.2.1", "gpu": None}, "the NVIDIA driver sees no GPU"),
        ({"tensorrt": None}, "TensorRT cannot be imported"),
        ({"tensorrt": "8.2.1", "memory": 1 << 20}, "does not build what is measured before the first step"),
    ],
)
def test_what_goes_wrong_there_is_said_here(simulation, message, board, command, tmp_path):
    done = run(command("--epochs", "1"), board(**simulation), tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last and "Traceback" not in done.stderr
    with Bundle(tmp_path / "bundle") as bundle:
        assert bundle.domains == []


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(board, command, photos, tmp_path):
    env = board(tensorrt="8.2.1", cuda="pycuda")
    words = command("--epochs", "12")
    process = subprocess.Popen(words, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "stripes" / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 2:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    before = read(tmp_path / "runs" / "stripes" / "last.safetensors").progress
    assert 2 <= before.epoch < 12
    done = run([*words, "--resume"], env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "built the engine" not in done.stderr and "resuming at epoch" in done.stderr
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    options = {"bundle": str(tmp_path / "bundle"), "runs": str(tmp_path / "whole"), "backend": "tensorrt"}
    with simulated(tensorrt="8.2.1", cuda="pycuda"):
        whole = learn(
            LearnOptions("whole", str(photos), epochs=12, batch_size=8, workers=1, **options),
            Reporter(),
        )
    assert untimed(rows) == untimed(whole.history)


# -- the process of its own


def test_a_process_that_was_killed_is_told_of(monkeypatch):
    monkeypatch.setattr(apart, "_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)  # %r %s")
    with pytest.raises(BackendError, match="makes the engine was killed.*no memory left: close other") as caught:
        apart.done_apart("x", [], "the engine")
    assert "\n" not in str(caught.value)


def test_time_is_told_and_a_failure_s_last_line_is_raised(monkeypatch):
    monkeypatch.setattr(apart, "_TICK", 0.05)
    code = "import sys, time; time.sleep(0.5); print('first'); print('why'); sys.stderr.write('chatter'); "
    code += "raise SystemExit(%d)  # %%r %%s"
    for status in (0, 1):
        monkeypatch.setattr(apart, "_CHILD", code % status)
        told = []
        if status:
            with pytest.raises(BackendError, match="^why$"):
                apart.done_apart("x", [], "the engine", told.append)
        else:
            assert apart.done_apart("x", [], "the engine", told.append) == "why"
        assert len(told) >= 3 and told == sorted(told)


def test_interrupted_it_takes_the_process_with_it(monkeypatch, tmp_path):
    code = "import os, sys, time; open(%r, 'w').write(str(os.getpid())); time.sleep(60)  # %%r %%s"
    monkeypatch.setattr(apart, "_CHILD", code % str(tmp_path / "pid"))
    monkeypatch.setattr(apart, "_TICK", 0.05)

    def interrupt(seconds):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apart.done_apart("x", [], "the engine", interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
