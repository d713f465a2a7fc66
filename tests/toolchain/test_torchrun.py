"""`torchrun -m da3 train`: real processes over gloo, which learn what one learns, are stopped, and die."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch.distributed

from da3.runtime.training.checkpoint import read
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this PyTorch is built without torch.distributed or gloo",
)
SETTINGS = {"weights": "demo", "size": 32, "batch_size": 7, "lr": 1e-3, "keep_precision": "fp32"}
LONG = 100000  # epochs, of a run that is ended before


def options(photos, runs, **changes):
    return TrainOptions(domain="signs", data=str(photos), runs=runs, workers=1, **{**SETTINGS, "epochs": 1, **changes})


def words(photos, runs, **changes):
    given = {"domain": "signs", "data": photos, "runs": runs, **SETTINGS, "epochs": 1, **changes}
    return [str(word) for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)]


class Launched:
    """torchrun with so many processes of `da3` with these words; ended with the block, whatever happens."""

    def __init__(self, processes, *command):
        # No port is named: --standalone takes a free one of this machine.
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.process = subprocess.Popen(
            [*launcher, "-m", "da3", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for child in self.children() if self.process.poll() is None else []:
            child.kill()
        self.process.kill()
        self.process.wait()

    def children(self):
        """Those that train, by rank."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [Child(int(child)) for child in found]

    def end(self, seconds=90):
        """Exit code, stdout, and of stderr what da3's processes said."""
        output, errors = self.process.communicate(timeout=seconds)
        # What torchrun says itself: its log, and for every process that failed a traceback of its own with a table.
        said = errors.split("Traceback (most recent call last):\n  File")[0].splitlines()
        log = ("W", "E", "I")
        return self.process.returncode, output, [s for s in said if not (s[:1] in log and "torch/distributed" in s)]

    def wait_for(self, path, seconds=60):
        until = time.monotonic() + seconds
        while not path.exists():
            assert self.process.poll() is None and time.monotonic() < until, self.end()
            time.sleep(0.02)


class Child:
    def __init__(self, pid):
        self.pid = pid

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


def launched(*command, processes=2):
    with Launched(processes, *command) as running:
        return running.end()


def test_two_processes_learn_what_one_learns(photos, tmp_path):
    alone = options(photos, tmp_path / "alone")
    train(alone, SilentReporter())
    code, output, errors = launched("train", *words(photos, tmp_path / "two"))
    assert code == 0, errors
    assert output.startswith("best: ") and output.count("next: da3 export") == 1
    told = [line[:9] for line in errors if line and "--backbone-precision bf16" not in line]  # a tip for some CPUs
    assert told == ["signs: 24", "epoch 1/1"]
    found, expected = (read(tmp_path / name / "signs" / "best.safetensors") for name in ("two", "alone"))
    assert found.provenance["processes"] == 2
    assert found.provenance["command"].startswith("da3 train --domain signs")
    mine, other = found.progress.history[0], expected.progress.history[0]
    assert mine["processes"] == 2
    for name in ("train_loss", "val_loss"):
        assert mine[name] == pytest.approx(other[name], rel=1e-3)
    for name, array in expected.model.items():
        assert np.abs(found.model[name] - array).max() <= 5e-3 * (np.abs(array).max() or 1.0), name


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_any_number_goes_on(number, photos, tmp_path):
    last = tmp_path / "runs" / "signs" / "last.safetensors"
    with Launched(2, "train", *words(photos, tmp_path / "runs", epochs=LONG)) as running:
        running.wait_for(last.with_name("metrics.jsonl"))  # the last of what an epoch writes
        running.process.send_signal(number)
        code, output, errors = running.end()
    assert code and output.startswith("stopped; all is saved. Go on with: torchrun ... -m da3 train --domain signs")
    assert not [line for line in errors if "rror" in line]
    stopped = read(last).progress
    with Launched(3, "train", "--domain", "signs", "--runs", str(tmp_path / "runs"), "--resume") as running:
        until = time.monotonic() + 60
        while read(last).progress.epoch <= stopped.epoch:
            assert time.monotonic() < until, running.end(1)
            time.sleep(0.1)
    rows = read(last).progress.history
    assert rows[: len(stopped.history)] == stopped.history
    assert {row["processes"] for row in rows[len(stopped.history) + 1 :]} <= {3}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_others_and_its_run_goes_on(rank, photos, tmp_path):
    last = tmp_path / "runs" / "signs" / "last.safetensors"
    with Launched(2, "train", *words(photos, tmp_path / "runs", epochs=LONG)) as running:
        running.wait_for(last.with_name("metrics.jsonl"))  # the last of what an epoch writes
        running.children()[rank].kill()
        began = time.monotonic()
        code, output, errors = running.end(15)
        assert time.monotonic() - began < 15
    assert code and not output
    said = [line for line in errors if line.startswith("error: ")]
    assert len(said) == rank and not [line for line in said if "another of the 2 processes has ended" not in line]
    assert read(last).progress.epoch >= 1
    resumed = TrainOptions(domain="signs", runs=tmp_path / "runs", resume=True)
    seen = []

    class Rows(SilentReporter):
        def epoch(self, row):
            seen.append(row)

    assert not train(resumed, Rows(), lambda: bool(seen)).finished
    assert np.isfinite(seen[0]["val_loss"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["export", "--domain", "signs"], "error: torchrun started this as one of 2 processes"),
        (
            ["train", "--domain", "signs", "--engine", "onnxruntime"],
            "error: --engine onnxruntime: learns in one",
        ),
        (["train", "--domain", "signs", "--data", "nowhere"], "error: photo folder "),
        (["train", "--domain", "si/gns"], "error: --domain 'si/gns'"),
    ],
)
def test_what_is_refused_is_said_once(command, line):
    code, output, errors = launched(*command)
    assert code and not output
    assert [said[: len(line)] for said in errors if said] == [line]


@pytest.mark.slow
def test_one_process_says_what_another_found(photos, tmp_path, monkeypatch):
    """The second process alone fails: the first one says so, and which it was."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import da3.runtime.training.photos as photos\n"
        "    from da3.runtime.errors import DataError\n"
        "    def fail(*args, **more):\n"
        "        raise DataError('the disk is gone')\n"
        "    photos.find_photos = fail\n"
        "    import da3.runtime.training\n"
        "    da3.runtime.training.find_photos = fail\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    code, _, errors = launched("train", *words(photos, tmp_path / "runs"))
    said = [line for line in errors if line]
    assert code and len(said) == 1 and said[0].startswith("error: process 1 of 2 (from 0), on ")
    assert said[0].endswith(": the disk is gone")
    assert not (tmp_path / "runs" / "signs" / "last.safetensors").exists()


@pytest.mark.slow
def test_two_machines_are_two_launchers(photos, tmp_path):
    """Of which the second has a folder of runs of its own, and photos of another name."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shutil.copytree(photos, tmp_path / "elsewhere")
    places = [(photos, tmp_path / "first"), (tmp_path / "elsewhere", tmp_path / "second")]
    running = []
    try:
        for rank, (folder, runs) in enumerate(places):
            nodes = ["--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
            launcher = [sys.executable, "-m", "torch.distributed.run", *nodes, f"--master-port={port}", "-m", "da3"]
            command = [*launcher, "train", *words(folder, runs)]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [process.returncode for process in running] == [0, 0], said
    assert said[0][0].startswith("best: ") and not said[1][0] and "epoch 1/1" not in said[1][1]
    assert read(tmp_path / "first" / "signs" / "last.safetensors").provenance["processes"] == 2
    assert not (tmp_path / "second").exists()


@pytest.mark.slow
def test_other_photos_are_refused(photos, tmp_path):
    """Of one machine both see the same folder; so the second process is given another by its rank."""
    script = tmp_path / "by_rank.py"
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    next((other / "train" / "class0").iterdir()).unlink()
    script.write_text(
        "import os, sys\n"
        f"folder = {str(photos)!r} if os.environ['RANK'] == '0' else {str(other)!r}\n"
        "sys.argv = ['da3', 'train', '--data', folder, *sys.argv[1:]]\n"
        "from da3.toolchain.cli.main import main\n"
        "main()\n"
    )
    given = words(photos, tmp_path / "runs")
    at = given.index("--data")
    del given[at : at + 2]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, str(script), *given], capture_output=True, text=True, timeout=90)
    assert done.returncode
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == [line for line in said if line.startswith("error: process 1 of 2 (from 0) has other options")] or (
        said[0].startswith("error: process 1 of 2 (from 0) has other photos")
    )
    assert len(said) == 1
