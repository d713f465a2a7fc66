"""``da3 bench train``: figures that known tensors confirm, methods in turns, and failures that stay their own."""

import io
import json
import os
import platform
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from da3.runtime.training.config import AdaptorSpec
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.bench import train as bench_train
from da3.toolchain.bench.plots import draw_train
from da3.toolchain.bench.progress import SilentBenchReporter
from da3.toolchain.bench.tables import digits, size, train_table
from da3.toolchain.bench.train import TrainPlan
from da3.toolchain.bench.variants import parse
from da3.toolchain.cli.commands import app
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import Learner, Task, method
from da3.toolchain.network.model import Output
from da3.toolchain.training.step_worker import close_to, kept_bytes_per_image

FIGURES = {
    "method",
    "kept_bytes_per_image",
    "peak_growth_bytes",
    "step_seconds_median",
    "step_seconds_iqr",
    "trainable_parameters",
    "domain_bytes",
}
ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")

# Stands in for step_worker: it notes what was asked, and answers at once. It imports no PyTorch, so it starts at once.
ENGINE = "da3:keep=0.5,engine=onnxruntime"
FAKE = """
import json, os, signal, sys, time
request = json.load(sys.stdin)
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(f"{request['method']} {request['flops_budget']} {os.getpid()}\\n")
if request["method"] == "linear":
    os.kill(os.getpid(), signal.SIGKILL)
if request["method"] == "bias":
    sys.exit("Traceback\\nRuntimeError: can't allocate memory")
if request["method"] == "series":
    time.sleep(60)
print("a library's own words")
for step in range(1 + request["steps"]):
    print(json.dumps({"step": step}), flush=True)
turn = sum(line.startswith(request["method"]) for line in open(os.environ["FAKE_LOG"]))
print(json.dumps({"measured": {
    "kept_bytes_per_image": 1000 * turn, "base_bytes": 10**8, "peak_growth_bytes": 10**6 * turn,
    "seconds": [turn, turn + 0.5],
    "trainable_parameters": 7, "domain_bytes": 14, "flops_share": request["flops_budget"], "threads": 1,
    "device_name": None}}))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch, weights_files):
    """Makes plans whose workers are ``FAKE``; its attribute ``asked`` reads which were started, in order."""
    (tmp_path / "fake_worker.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setitem(bench_train.WORKERS, "pytorch", "fake_worker")

    def plan(words, **changes):
        settings = {"weights": str(weights_files["mobilenet_v2"]), "size": 32, "steps": 2, **changes}
        return TrainPlan(variants=parse(words), backbone="mobilenet_v2", **settings)

    plan.asked = lambda: [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    return plan


@pytest.fixture(scope="module")
def measured(weights_files, tmp_path_factory):
    """What the command says of two methods and another engine, each really measured in a process of its own."""
    plot = tmp_path_factory.mktemp("bench") / "plot.png"
    words = [
        "--methods",
        "finetune,da3:keep=0.5,da3:keep=0.5,engine=onnxruntime",
        "--backbone",
        "mobilenet_v2",
        "--weights",
    ]
    words += [weights_files["mobilenet_v2"], "--size", 32, "--batch-size", 4, "--steps", 2, "--rounds", 1]
    done = CliRunner().invoke(
        app, ["bench", "train", *map(str, words), "--threads", "1", "--json", "--plot", str(plot)]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout), plot


def test_json_has_every_figure_and_the_conditions(measured, weights_files):
    report, plot = measured
    assert [row["method"] for row in report["rows"]] == ["finetune", "da3:keep=0.5", ENGINE]
    assert report["failed"] == []
    for row in report["rows"]:
        assert row.keys() >= FIGURES
        assert len(row["step_seconds"]) == 2 and row["step_seconds_median"] > 0
        assert row["ratios"].keys() == FIGURES - {"method", "step_seconds_iqr"}
    assert all(v == 1 for v in report["rows"][0]["ratios"].values() if v is not None)
    conditions = report["conditions"]
    wanted = {
        "machine",
        "cpus",
        "threads",
        "torch",
        "backbone",
        "size",
        "batch",
        "device",
        "weights",
        "rounds",
        "steps",
    }
    assert conditions.keys() >= wanted
    assert (conditions["size"], conditions["batch"], conditions["threads"]) == (32, 4, 1)
    assert conditions["levers"]["da3:keep=0.5"]["keep"] == 0.5
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_figures_are_sane(measured, weights_files):
    finetune, da3, engine = measured[0]["rows"]
    weights = load_weights(str(weights_files["mobilenet_v2"]), "mobilenet_v2")
    task = Task(arch="mobilenet_v2", size=32, classes=10, flops_budget=1.0, adaptor=AdaptorSpec())
    learner = method("finetune")(task, weights)
    assert finetune["trainable_parameters"] == sum(p.numel() for p in learner.parameters())
    assert finetune["domain_bytes"] == learner.domain_bytes() > da3["domain_bytes"]
    parameters = 4 * finetune["trainable_parameters"]
    # Weights, gradients and two moments of AdamW at least; libraries, primitives and images on top.
    assert 4 * parameters < finetune["peak_growth_bytes"] < 4 * parameters + 200e6
    assert 0 < da3["peak_growth_bytes"] < 200e6
    if platform.libc_ver()[0] == "glibc":
        assert 0 < da3["kept_bytes_per_image"] < finetune["kept_bytes_per_image"]
    assert finetune["flops_share"] == 1 > 0.8 >= da3["flops_share"] > 0.6
    assert 0 < engine["peak_growth_bytes"] < 200e6 and engine["kept_bytes_per_image"] is None
    assert 0.8 >= engine["flops_share"] > 0.6 and engine["trainable_parameters"] == da3["trainable_parameters"]


class Keeps(Learner):
    """Keeps its images (3 S S floats), and as many again made on the way: known to the byte."""

    name, default_lr, sliceable = "keeps", 0.1, True
    slice_size = 32

    def __init__(self, micro_batch=0):
        memory = type("MemorySettings", (), {"micro_batch": micro_batch})()
        super().__init__(
            Task(arch="none", size=64, classes=10, flops_budget=1.0, adaptor=AdaptorSpec(), memory=memory),
            WeightsFile({}, "none", input_range="-1..1"),
        )
        self.model = nn.ParameterList([nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))])

    def forward(self, images):
        first, second = self.model
        scaled = (images * first) * second  # each product keeps its input
        return Output(scaled.flatten(1)[:, :10])

    def domain_state(self):
        return dict(self.model.state_dict())


@ON_GLIBC
@pytest.mark.parametrize("micro_batch", [0, 16])
def test_kept_bytes_of_known_tensors(micro_batch):
    pixels = torch.zeros(32, 64, 64, 3, dtype=torch.uint8)
    labels = torch.zeros(32, dtype=torch.int64)
    learner = Keeps(micro_batch)
    learner.step(pixels, labels, 0.1)
    known = 3 * 4 * 3 * 64 * 64  # the images, their product, and the scaled ones, of which a view is the logits
    assert kept_bytes_per_image(learner, pixels, labels) == pytest.approx(known, rel=0.03)


def test_kept_bytes_are_unknown_without_glibc(monkeypatch):
    monkeypatch.setattr("da3.toolchain.process.memory._mallinfo", lambda: None)
    pixels, labels = torch.zeros(2, 64, 64, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    assert kept_bytes_per_image(Keeps(), pixels, labels) is None


@pytest.mark.parametrize("share", [0.5, 0.75, 1.0])
def test_blocks_are_closed_to_a_share(share, weights_files):
    weights = load_weights(str(weights_files["mobilenet_v2"]), "mobilenet_v2")
    task = Task(arch="mobilenet_v2", size=32, classes=10, flops_budget=0.5, adaptor=AdaptorSpec())
    shut = []
    for _ in range(2):
        model = method("da3")(task, weights).model
        close_to(model, share, seed=1)
        shut.append(model.closed_blocks)
        assert share - max(model.branch_share) < model.answer_costs[-1] <= share
    assert shut[0] == shut[1] and all(model.closable[i] for i in shut[0])


def test_methods_take_turns_and_their_figures_are_pooled(fake):
    report = bench_train.bench_train(fake(["finetune,da3:keep=0.7"], rounds=3), SilentBenchReporter())
    assert [words[:2] for words in fake.asked()] == [["finetune", "1.0"], ["da3", "0.7"]] * 3
    assert len({pid for *_, pid in fake.asked()}) == 6  # a fresh process each
    finetune, da3 = report["rows"]
    seconds = [1, 1.5, 2, 2.5, 3, 3.5]
    assert finetune["step_seconds"] == seconds
    assert finetune["step_seconds_median"] == np.median(seconds)
    assert finetune["step_seconds_iqr"] == np.percentile(seconds, 75) - np.percentile(seconds, 25)
    assert (finetune["kept_bytes_per_image"], finetune["peak_growth_bytes"]) == (2000, 2_000_000)
    assert da3["method"] == "da3:keep=0.7" and da3["flops_share"] == 0.7


def test_a_method_that_dies_is_named_and_the_others_go_on(fake):
    notes = []

    class Notes(SilentBenchReporter):
        def note(self, text):
            notes.append(text)

    report = bench_train.bench_train(fake(["linear,bias,da3"], rounds=2), Notes())
    assert [row["method"] for row in report["rows"]] == ["da3"]
    assert report["rows"][0]["ratios"] is None  # nothing to compare with
    linear, bias = report["failed"]
    assert linear["method"] == "linear" and "SIGKILL" in linear["error"] and "memory" in linear["error"]
    assert bias == {"method": "bias", "error": "RuntimeError: can't allocate memory"}
    assert [words[0] for words in fake.asked()] == ["linear", "bias", "da3", "da3"]  # not asked twice
    errors = [note for note in notes if note.startswith("error: ")]
    assert len(errors) == 2 and not any("\n" in note for note in errors)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(train_table(report))
    assert "linear failed" in console.export_text()


def test_the_command_ends_with_exit_code_one_when_a_method_failed(fake, weights_files):
    words = ["--methods", "linear,da3", "--backbone", "mobilenet_v2", "--weights", weights_files["mobilenet_v2"]]
    done = CliRunner().invoke(app, ["bench", "train", *map(str, words), "--size", "32", "--rounds", "1"])
    assert done.exit_code == 1 and "linear failed" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_ends_the_worker_too(fake, number, weights_files, tmp_path):
    code = (
        "import sys; from da3.toolchain.bench import train as bench_train; "
        "from da3.toolchain.cli import commands as cli; bench_train.WORKERS['pytorch'] = 'fake_worker'; "
        "sys.argv = ['da3', *sys.argv[1:]]; cli.run()"
    )
    words = ["bench", "train", "--methods", "series", "--backbone", "mobilenet_v2", "--size", "32", "--weights"]
    command = [sys.executable, "-c", code, *words, str(weights_files["mobilenet_v2"])]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for((tmp_path / "log").exists)
        wait_for(fake.asked)
        parent.send_signal(number)
        _, errors = parent.communicate(timeout=30)
    finally:
        parent.kill()
    assert parent.returncode == 130 and "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.kill(int(fake.asked()[0][2]), 0)


def wait_for(what):
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 50}, "multiple of 32"),
        ({"device": "tpu9"}, "--device tpu9"),
        ({"weights": "nowhere.pth"}, "nowhere.pth does not exist"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(fake, changes, message):
    with pytest.raises(Exception, match=message) as raised:
        bench_train.bench_train(fake(["da3"], **changes), SilentBenchReporter())
    assert "\n" not in str(raised.value)


def test_an_unknown_method_or_backbone_is_refused_by_the_command():
    for words, message in (
        (["--methods", "da3:kep=1"], "has no option 'kep'"),
        (["--methods", "da3", "--gradient", "none"], "--gradient none"),
        (["--methods", "da3", "--backbone", "vgg"], "--backbone vgg"),
    ):
        done = CliRunner().invoke(app, ["bench", "train", *words])
        assert done.exit_code == 1 and isinstance(done.exception, TrainingError) and message in str(done.exception)


def test_numbers_are_readable():
    assert [digits(v) for v in (0, 1234.5, 99.96, 56.78, 1.0, 0.05641, 0.0001234)] == [
        "0",
        "1,234",
        "100.0",
        "56.8",
        "1.00",
        "0.0564",
        "0.000123",
    ]
    assert [size(v) for v in (12, 6150, 3.54e6, 1.2e10)] == ["12 B", "6.15 KB", "3.54 MB", "12.0 GB"]


def test_a_picture_of_what_is_not_known():
    row = {"method": "x", "kept_bytes_per_image": None, "peak_growth_bytes": 1, "step_seconds_median": 1.0}
    conditions = dict.fromkeys(("backbone", "size", "batch", "device", "threads", "rounds", "steps"), 1)
    picture = draw_train({"rows": [{**row, "step_seconds": [1.0]}], "conditions": conditions})
    assert picture.startswith(b"\x89PNG")
