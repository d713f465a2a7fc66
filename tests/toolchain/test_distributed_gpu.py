"""Processes that train together on a GPU: NCCL, and the same result as the CPU's; skipped where there is none."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from da3.runtime.training.checkpoint import read
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no CUDA device"),
]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
SETTINGS = {"weights": "demo", "size": 32, "batch_size": 7, "lr": 1e-3, "keep_precision": "fp32", "epochs": 2}

# Two processes on one GPU, which a user's run refuses: NCCL has one process a GPU, gloo copies through the CPU.
SHARING = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from da3.toolchain.distributed.joining import _meet
from da3.toolchain.process.launch import launched
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train
group = _meet(launched())
group.device = torch.device("cuda", 0)
options = TrainOptions(domain="signs", data=sys.argv[1], runs=Path(sys.argv[2]), workers=1, **eval(sys.argv[3]))
assert train(options, SilentReporter(), joined=group).finished
assert group.sent > 1_000_000
dist.destroy_process_group()
"""


def command(processes, photos, runs, device="cuda"):
    given = {"domain": "signs", "data": photos, "runs": runs, "device": device, **SETTINGS}
    words = [str(word) for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]
    return [*LAUNCHER, f"--nproc-per-node={processes}", "-m", "da3", "train", *words]


def launched(words):
    return subprocess.run(words, capture_output=True, text=True, timeout=170, env=dict(os.environ))


@pytest.fixture(scope="module")
def alone(more_photos, tmp_path_factory):
    """The same run by one process on the GPU."""
    runs = tmp_path_factory.mktemp("alone")
    options = TrainOptions(domain="signs", data=str(more_photos), runs=runs, workers=1, device="cuda", **SETTINGS)
    train(options, SilentReporter())
    return read(options.folder / "last.safetensors")


def alike(runs, expected):
    found = read(runs / "signs" / "last.safetensors")
    for mine, other in zip(found.progress.history, expected.progress.history, strict=True):
        for name in ("train_loss", "val_loss"):
            assert mine[name] == pytest.approx(other[name], rel=2e-2)
    for name, array in expected.model.items():
        assert np.abs(found.model[name] - array).max() <= 0.1 * (np.abs(array).max() or 1.0), name


def test_one_process_over_nccl_learns_what_it_learns_alone(more_photos, alone, tmp_path):
    done = launched(command(1, more_photos, tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    alike(tmp_path, alone)


def test_more_processes_than_gpus_are_refused(more_photos, tmp_path):
    count = torch.cuda.device_count()
    done = launched(command(count + 1, more_photos, tmp_path))
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode and len(said) == 1
    assert said[0].startswith(f"error: {count + 1} processes and {count} GPU")
    assert not (tmp_path / "signs").exists()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_a_process_a_gpu_learns_what_one_learns(more_photos, alone, tmp_path):
    done = launched(command(2, more_photos, tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    alike(tmp_path, alone)


def test_sums_of_gpu_tensors_are_right_over_gloo_too(more_photos, alone, tmp_path):
    script = tmp_path / "sharing.py"
    script.write_text(SHARING)
    done = launched([*LAUNCHER, "--nproc-per-node=2", str(script), str(more_photos), str(tmp_path), repr(SETTINGS)])
    assert done.returncode == 0, done.stderr[-2000:]
    alike(tmp_path, alone)


def test_cpus_do_it_beside_a_gpu(more_photos, tmp_path):
    done = launched(command(2, more_photos, tmp_path, "cpu"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert read(tmp_path / "signs" / "last.safetensors").progress.history[-1]["processes"] == 2
