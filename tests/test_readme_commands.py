"""The README's table of commands: it names every command, and each of its lines does what it says."""

import re
from contextlib import nullcontext
from pathlib import Path

import cv2
import pytest
from photo_folders import write_photos
from registries import PROGRAM, docker_registry
from simulation import simulated
from typer.main import get_command
from typer.testing import CliRunner

from da3.runtime.app.commands import COMMANDS
from da3.toolchain.cli.commands import app

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
ROWS = re.findall(r"^\| `da3 ([^`]*)`( \*)? \|", README.split("## All commands")[1].split("\n## ")[0], re.M)

# What makes a line short enough for a test: a small network, few photos, few repetitions.
SMALLER = {
    "train": "--weights demo --size 64 --epochs 1 --batch-size 8",
    "config": "--epochs 1",
    "learn": "--epochs 1 --batch-size 8",
    "fleet": "--dry-run",
    "selftest": "--quick",
    "bench": "--repeats 2",
}
SAYS = {
    "train": "accuracy",
    "fleet": "flowers",
    "runs": "flowers",
    "config": "epochs",
    "export": "verification against PyTorch",
    "calibrate": "block FLOPs",
    "run-engine": "FLOPs skipped",
    "evaluate": "top-1",
    "report": "wrote report.html",
    "learn": "mushrooms",
    "domains list": "mushrooms",
    "domains info": "class0",
    "domains pack": "flowers.da3",
    "domains remove": "flowers",
    "domains add": "flowers",
    "domains push": "pushed flowers as oci://",
    "domains pull": "flowers",
    "build": "engines built",
    "selftest": "0 FAIL",
    "doctor": "onnxruntime",
    "pyz": "run_engine.pyz",
    "pack": "tritonserver --model-repository=",
    "bench": "monolithic",
    "demo": "glyphs",
}


def test_the_table_names_every_command():
    named = {words.split()[0] for words, _ in ROWS}
    assert named == set(get_command(app).commands)
    assert {words.split()[0] for words, star in ROWS if star} == {command.name for command in COMMANDS}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with photos of flowers and mushrooms, as on a user's disk."""
    write_photos(tmp_path / "photos" / "flowers", classes=3, train=12, val=20)
    write_photos(tmp_path / "photos" / "mushrooms", classes=2, train=8, val=4, seed=1)
    fleet = "out: fleet\ndefaults:\n  data: photos/{domain}\n  weights: demo\ndomains:\n  flowers:\n  mushrooms:\n"
    (tmp_path / "fleet.yaml").write_text(fleet)
    clip = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 40))
    for photo in sorted((tmp_path / "photos" / "flowers" / "val").rglob("*.jpg"))[:5]:
        clip.write(cv2.imread(str(photo)))
    clip.release()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def registry(tmp_path_factory, monkeypatch):
    """What the table calls localhost:5000; None where there is none to start."""
    if PROGRAM is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("registry")
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    with docker_registry(folder / "served") as host:
        yield host


def typed(line):
    """What ``da3 LINE`` prints, made smaller."""
    words = line.split()
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, *SMALLER.get(words[0], "").split()])


@pytest.mark.parametrize("left_out", [("selftest", "bench", "demo"), pytest.param((), marks=pytest.mark.slow)])
def test_every_line_of_the_table_runs(left_out, workplace, registry):
    """In the table's order, in one folder, each line on what those before it left."""
    for line, _ in ROWS:
        if line.split()[0] in left_out or ("oci://" in line and registry is None):
            continue
        line = line.replace("localhost:5000", registry or "")
        with simulated(tensorrt="10.16.1", cuda="cuda-python 12.6") if line == "build" else nullcontext():
            done = typed(line)
        assert done.exit_code == 0, f"da3 {line}\n{done.output}\n{done.exception}"
        says = SAYS.get(" ".join(line.split()[:2])) or SAYS[line.split()[0]]
        assert says in done.output, f"da3 {line}\n{done.output}"
