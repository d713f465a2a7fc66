"""``da3 runs``: every run is found, and what differs between two of them is said."""

import io
import json
import shutil
import sys

import numpy as np
import pytest
from small_runs import CONFIG as LARGER
from typer.testing import CliRunner

from da3.runtime.errors import CheckpointError
from da3.runtime.training import AdaptorSpec, Progress
from da3.runtime.training.checkpoint import write
from da3.runtime.training.config import MemorySettings
from da3.toolchain.cli.commands import app, run
from da3.toolchain.cli.console import out
from da3.toolchain.errors import TrainingError
from da3.toolchain.runs import differences, find_run, find_runs

CONFIG = LARGER._replace(
    backbone="mobilenet_v2", epochs=2, adaptor=AdaptorSpec.of("mobilenet_v2"), memory=MemorySettings()
)
TOLD = {"begun": "2026-11-20T08:00:00Z", "photos": {"sha256": "cd" * 32, "train": 10, "val": 4}, "command": "da3 train"}


def row(epoch, accuracy, **more):
    figures = {"epoch": epoch, "val_accuracy": accuracy, "val_loss": 0.5, "val_share": 1.0, "seconds": 40.0}
    return {**figures, "memory_mb": 300.0 + epoch, **more}


def put(folder, config=CONFIG, accuracy=0.9, done=2, told=TOLD, **more):
    history = [row(epoch, accuracy, **more) for epoch in range(1, done + 1)]
    progress = Progress(done, 0, {}, history, history[-1] if history else None)
    write(folder / "last.safetensors", config, progress, {"head.bias": np.zeros(2, np.float32)}, {}, told)


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    put(folder / "flowers", kept_accuracy=0.89, kept_share=0.7)
    put(folder / "fresh", CONFIG._replace(domain="fresh"), done=0, told={})
    put(folder / "half", CONFIG._replace(domain="half", epochs=9), done=1)
    (folder / "backbones").mkdir()
    put(tmp_path / "week" / "flowers", CONFIG._replace(classes=("daisy", "rose", "tulip"), lr=1e-3), 0.85)
    return folder


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal that folds nothing: a console asks for its width once, when it is made."""
    monkeypatch.setattr(out, "_width", 320)


def da3(*words):
    return CliRunner().invoke(app, ["runs", *map(str, words)])


def test_runs_are_listed(runs):
    done = da3("--runs", runs)
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert {"flowers", "fresh", "half"} <= set(lines)
    for part in ("89.0%", "70%", "80 s", "302 MB", "mobilenet_v2, 96", "2026-11-20"):
        assert part in lines["flowers"], part
    assert "1 of 9" in lines["half"] and "0 of 2" in lines["fresh"] and "backbones" not in done.output


def test_a_run_that_cannot_be_read_hides_no_other(runs):
    (runs / "half" / "last.safetensors").write_bytes(b"damaged")
    found, problems = find_runs(runs)
    assert [run.name for run in found] == ["flowers", "fresh"] and len(problems) == 1
    output = da3("--runs", runs).output
    assert "cannot be read" in output and "half" in output and "flowers" in output
    with pytest.raises(CheckpointError, match="damaged"):
        find_run("half", runs)


def test_a_terminal_that_prints_ascii_alone(runs, tmp_path, monkeypatch):
    """Frames of its letters, and escapes for what a user named."""
    put(runs / "flowers", CONFIG._replace(data="/photos/fl\xe4chen"))
    empty = tmp_path / "v\xf6gel"
    empty.mkdir()
    for words, part in (
        (["runs", "flowers", "--runs", str(runs)], b"fl\\xe4chen"),
        (["runs", "--runs", str(empty)], b"v\\xf6gel"),
        (["runs", "flowers", "half", "--runs", str(runs)], b"| accuracy"),
    ):
        printed = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii", write_through=True))
        monkeypatch.setattr(sys, "argv", ["da3", *words])
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 0 and part in printed.getvalue()


def test_two_runs_are_compared(runs, tmp_path):
    done = da3("flowers", tmp_path / "week" / "flowers", "--runs", runs)
    assert done.exit_code == 0, done.output
    rows = {line.split("│")[1].strip(): line for line in done.output.splitlines() if line.count("│") > 2}
    assert "90.0%" in rows["accuracy"] and "85.0%" in rows["accuracy"]
    assert "0.004" in rows["lr"] and "0.001" in rows["lr"] and "tulip" in rows["classes beside the shared"]
    assert "daisy" not in rows["classes beside the shared"] and "seed" not in rows
    assert "80 s" in rows["time"] and "302 MB" in rows["memory at most"]
    told = json.loads(da3("flowers", tmp_path / "week" / "flowers", "--runs", runs, "--json").stdout)
    assert told["differences"]["lr"] == [0.004, 0.001] and set(told["differences"]) == {"lr", "classes"}
    assert told["runs"][0]["accuracy_with_exits"] == 0.89 and told["runs"][1]["seconds"] == 80.0


def test_the_order_of_classes_is_a_difference(runs, tmp_path):
    put(tmp_path / "other" / "flowers", CONFIG._replace(classes=("rose", "daisy")))
    two = [find_run("flowers", runs), find_run(str(tmp_path / "other" / "flowers"), runs)]
    assert differences(two) == {"classes": [["daisy", "rose"], ["rose", "daisy"]]}
    assert differences([two[0], two[0]]) == {}


def test_one_run_is_told_whole(runs):
    output = da3("flowers", "--runs", runs).output
    assert "seed" in output and "command" in output and "daisy, rose" in output and "cdcdcdcdcdcd..." in output


def test_what_is_not_there(runs, tmp_path):
    with pytest.raises(TrainingError, match="no run roses in .*; there are: flowers, fresh, half"):
        find_run("roses", runs)
    with pytest.raises(TrainingError, match="no folder of runs at .*nowhere"):
        find_runs(tmp_path / "nowhere")
    shutil.rmtree(runs)
    runs.mkdir()
    assert "no runs in" in da3("--runs", runs).output
