"""``da3 bench train --whole-process``: which commands are run, and what is read of a process and its children."""

import json
import platform
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from da3.toolchain.bench.generated_photos import write_photos
from da3.toolchain.bench.train import TrainPlan
from da3.toolchain.bench.variants import parse
from da3.toolchain.bench.whole_process import Whole, run_and_watch, train_command
from da3.toolchain.cli.commands import app
from da3.toolchain.errors import TrainingError
from da3.toolchain.training.step_worker import CLASSES

ON_LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="no /proc")
HOLDS = """
import subprocess, sys, time
held = b"x" * 60_000_000
del held
child = "held = b'x' * 30_000_000; import time; time.sleep(0.5)"
subprocess.run([sys.executable, "-c", child], check=True)
"""


@ON_LINUX
def test_a_process_and_its_children_are_read_apart():
    found = run_and_watch([sys.executable, "-c", HOLDS])
    assert isinstance(found, Whole)
    assert 60_000_000 < found.peak_bytes < 110_000_000
    assert 30_000_000 < found.children_bytes < 60_000_000 < found.peak_bytes
    assert found.children_bytes < found.together_bytes < found.peak_bytes + found.children_bytes
    assert 0.5 < found.seconds < 60


@ON_LINUX
def test_a_command_that_fails_says_why_in_one_line():
    assert run_and_watch([sys.executable, "-c", "import sys; sys.exit('first\\nthe reason')"]) == "the reason"
    assert run_and_watch([sys.executable, "-c", "raise SystemExit(3)"]) == "it ended with exit code 3"


def test_the_commands_are_those_that_a_user_would_type():
    words = ["finetune,da3:keep=0.5,micro-batch=2,linear"]
    plan = TrainPlan(variants=parse(words), backbone="mobilenet_v2", size=64, batch=4)
    finetune, da3, linear = (" ".join(train_command(plan, v, "w", "photos", 2, "runs")) for v in plan.variants)
    for command in (finetune, da3, linear):
        assert "-m da3.toolchain.cli.main train --domain bench --data photos" in command
        assert "--size 64 --batch-size 4 --epochs 2" in command
    assert "--method finetune" in finetune and "--micro-batch" not in finetune and "--keep" not in finetune
    assert "--keep 0.5" in da3 and "--micro-batch 2" in da3 and "--keep-precision int8" in da3
    assert "--method linear" in linear and "--micro-batch auto" in linear and "--keep-precision" not in linear


def test_generated_photos_are_the_same_for_a_seed_and_of_many_sizes(tmp_path):
    for name in ("one", "two"):
        write_photos(tmp_path / name, train=12, val=4, seed=3)
    one, two = (sorted((tmp_path / name).rglob("*.jpg")) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert len(one) == 12 + CLASSES  # each class has one to validate on
    assert len({Image.open(path).size for path in one}) > 15


@pytest.mark.slow
@ON_LINUX
def test_real_commands_are_measured(weights_files):
    words = ["--whole-process", "--methods", "finetune,da3", "--backbone", "mobilenet_v2", "--size", 32, "--threads", 1]
    words += ["--weights", weights_files["mobilenet_v2"], "--batch-size", 4, "--steps", 2, "--rounds", 1, "--epochs", 1]
    done = CliRunner().invoke(app, ["bench", "train", *map(str, words), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(done.stdout)
    finetune, da3 = report["rows"]
    assert finetune["ratios"] == {"peak_bytes": 1, "seconds_median": 1} and da3["engine"] == "pytorch"
    for row in (finetune, da3):
        assert 100e6 < row["peak_bytes"] < 900e6 and row["seconds_median"] > 0.5
        assert 20e6 < row["children_bytes"] < row["peak_bytes"]  # what draws the curves
    assert report["conditions"]["data"] == "generated" and report["conditions"]["epochs"] == 1


def test_options_that_exclude_each_other_are_refused():
    for words, message in ((["--data", "x"], "--whole-process"), (["--whole-process", "--plot", "p.png"], "--plot")):
        done = CliRunner().invoke(app, ["bench", "train", *words])
        assert isinstance(done.exception, TrainingError) and message in str(done.exception)
