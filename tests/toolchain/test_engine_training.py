"""``da3 train --engine onnxruntime``: a run like PyTorch's, without PyTorch in the process that learns."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from da3.export import export_domain
from da3.runtime import Runtime
from da3.runtime.bundle import Bundle
from da3.runtime.errors import Da3Error, TrainingError
from da3.runtime.training import RUN_FILES, Reporter
from da3.runtime.training.checkpoint import read
from da3.toolchain.bench.variants import parse
from da3.toolchain.learning import EngineOptions, bundles, learn_on_engine
from da3.toolchain.learning.options import refuse_others
from da3.toolchain.process import WorkerError
from da3.toolchain.training import SilentReporter, train

DA3 = [sys.executable, "-m", "da3.toolchain.cli.main", "train"]


@pytest.fixture
def asked(photos, weights_files, tmp_path):
    """asked(**changes): options of a run of seconds, as ``small_run`` makes them for PyTorch."""

    def make(domain="signs", **changes):
        options = {
            "data": str(photos),
            "runs": str(tmp_path / "engine"),
            "weights": str(weights_files["mobilenet_v2"]),
            "size": 32,
            "epochs": 2,
            "batch_size": 8,
            "micro_batch": 4,
            "threads": 1,
            "workers": 1,
        }
        return EngineOptions(domain, **{**options, **changes})

    return make


class Steps(Reporter):
    """Keeps each step's mean loss, and asks to stop after so many."""

    def __init__(self, stop_after=None):
        self.losses, self.stop_after, self.notes, self.before = [], stop_after, [], 0.0

    def step(self, epoch, step, steps, sums, memory):
        self.before = 0.0 if step == 1 else self.before
        self.losses.append((sums["loss"] - self.before) * step / sums["photos"])
        self.before = sums["loss"]

    def note(self, text):
        self.notes.append(text)

    def __call__(self):
        return self.stop_after is not None and len(self.losses) >= self.stop_after


def learnt(options):
    reporter = Steps()
    return learn_on_engine(options, reporter), reporter


def test_a_run_is_as_pytorchs_in_form_and_its_first_steps_in_figures(asked, small_run, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(place))
        ours, told = learnt(asked(epochs=6, weights="demo"))
        assert list(place.iterdir()) == []
    seen = Steps()
    theirs = train(small_run(epochs=6, weights="demo", keep_precision="fp32"), seen)
    assert ours.finished and ours.peak > 2**20
    for name in RUN_FILES:
        assert (ours.folder / name).exists() and (theirs.folder / name).exists(), name
    assert sorted(p.name for p in ours.folder.iterdir()) == sorted(p.name for p in theirs.folder.iterdir())
    for name in ("best.safetensors", "last.safetensors"):
        a, b = read(ours.folder / name), read(theirs.folder / name)
        assert {n: t.shape for n, t in a.model.items()} == {n: t.shape for n, t in b.model.items()}
        assert {n: t.shape for n, t in a.optimizer.items()} == {n: t.shape for n, t in b.optimizer.items()}
        assert a.config._replace(memory=b.config.memory) == b.config
        assert vars(a.progress).keys() == vars(b.progress).keys()
    a, b = ((run.folder / "metrics.jsonl").read_text().splitlines() for run in (ours, theirs))
    assert [set(json.loads(line)) for line in a] == [set(json.loads(line)) for line in b]
    assert np.array_equal(*(np.load(run.folder / "samples.npy") for run in (ours, theirs)))
    files = [np.load(run.folder / "validation.npz") for run in (ours, theirs)]
    assert {n: files[0][n].shape for n in files[0]} == {n: files[1][n].shape for n in files[1]}
    assert np.array_equal(files[0]["cost"], files[1]["cost"])
    np.testing.assert_allclose(told.losses[:3], seen.losses[:3], rtol=1e-3)
    for run in (ours, theirs):
        assert run.best["val_accuracy"] > 0.8  # a third by chance


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_a_stopped_run_goes_on_to_it(asked, tmp_path):
    straight = learnt(asked())[0]
    again = learnt(asked(runs=str(tmp_path / "again")))[0]
    halves = asked(runs=str(tmp_path / "halves"))
    stops = Steps(stop_after=2)
    assert not learn_on_engine(halves, stops, stops).finished
    rest = learn_on_engine(EngineOptions("signs", runs=halves.runs, resume=True, threads=1), Steps())
    assert rest.finished
    for name in ("last.safetensors", "best.safetensors"):
        whole = read(straight.folder / name)
        for run in (again, rest):
            found = read(run.folder / name)
            assert all(np.array_equal(whole.model[n], found.model[n]) for n in whole.model)


@pytest.mark.slow
def test_either_engine_goes_on_with_what_the_other_began(asked, small_run, tmp_path):
    runs = tmp_path / "engine"
    stops = Steps(stop_after=2)
    assert not learn_on_engine(asked("ours"), stops, stops).finished
    done = train(small_run("ours", runs=runs, resume=True), SilentReporter())
    assert done.finished and [row["epoch"] for row in done.history] == [1, 2]
    stops = Steps(stop_after=2)
    assert not train(small_run("theirs", runs=runs), stops, stops).finished
    done = learnt(asked("theirs", resume=True))[0]
    assert done.finished and [row["epoch"] for row in done.history] == [1, 2]


def test_what_pytorch_alone_can_go_on_with_is_refused(asked, small_run, tmp_path):
    for domain, change in (("way", {"gradient": "skip-path"}), ("other", {"method": "linear"})):
        stops = Steps(stop_after=1)
        train(small_run(domain, runs=tmp_path / "engine", **change), stops, stops)
        with pytest.raises(TrainingError, match=r"cannot go on with --engine onnxruntime: it has --(gradient|method)"):
            learnt(asked(domain, resume=True))


@pytest.mark.slow
def test_a_run_that_closes_blocks_is_exported_and_answers_as_it_did(asked, tmp_path, photos):
    run = learnt(asked(keep=0.45, epochs=4))[0]
    assert read(run.folder / "best.safetensors").model["closed"].any()
    done = export_domain("signs", run.folder.parent, tmp_path / "bundle")
    assert done.what == "a new bundle" and all(check.passed for check in done.checks)
    with Bundle(tmp_path / "bundle") as bundle, Runtime(bundle) as runtime:
        runtime.load("signs")
        picture = np.asarray(Image.open(photos / "val" / "class1" / "0.jpg"))
        assert runtime.run([picture], domain="signs")[0].label.startswith("class")


@pytest.mark.slow
def test_the_backbones_bundle_is_made_once_and_again_where_it_is_damaged(asked, monkeypatch):
    learnt(asked("one", epochs=1))
    options = asked("one", resume=True)
    (folder,) = [p for p in (options.folder.parent / "backbones").iterdir() if p.is_dir()]
    config = read(options.folder / "last.safetensors").config
    assert bundles.is_whole(folder, config.weights_sha256) and not bundles.is_whole(folder, "0" * 64)
    made = (folder / "manifest.json").stat().st_mtime_ns
    learnt(asked("two", epochs=1))
    assert (folder / "manifest.json").stat().st_mtime_ns == made
    victim = folder / "backbone" / "stem.onnx"
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    learnt(asked("three", epochs=1))
    assert victim.read_bytes() == good
    # A run that is gone on with needs no process for it.
    monkeypatch.setattr(bundles, "Worker", None)
    assert learn_on_engine(EngineOptions("one", runs=options.runs, resume=True), Steps()).finished


def command(*words, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*DA3, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--method", "finetune"], "--method finetune: an engine learns by da3 alone"),
        (["--device", "cuda"], "--device cuda: the engine learns on the CPU"),
        (["--gradient", "skip-path"], "--gradient skip-path: an engine's gradients are exact"),
        (["--backbone-precision", "bf16"], "--backbone-precision bf16: an engine learns on the backbone as it is"),
        (["--keep-precision", "int8"], "--keep-precision int8"),
        (["--engine", "tensorflow"], "--engine tensorflow: use pytorch or onnxruntime"),
        (["--size", "33"], "--size 33: use a multiple of 32"),
        (["--resume", "--overwrite"], "exclude each other"),
    ],
)
def test_what_means_nothing_to_an_engine_is_refused_in_one_line(words, said, tmp_path):
    done = command("-d", "x", "--engine", "onnxruntime", *words, cwd=tmp_path)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_the_making_of_the_backbone_says_is_passed_on_in_one_line(asked):
    for change, said in (
        ({"backbone": "alexnet"}, "--backbone alexnet: known are"),
        ({"weights": "gone.pth"}, "gone.pth does not exist"),
        ({"weights": __file__}, "unknown kind '.py'"),
    ):
        with pytest.raises(WorkerError, match=said):
            learnt(asked(**change))
    with pytest.raises(Da3Error, match="cannot go below"):
        learnt(asked(keep=0.01))


def test_every_refusal_names_a_way_out():
    assert refuse_others({"method": "da3", "device": "cpu", "gradient": None, "keep_precision": "fp32"}) is None
    with pytest.raises(TrainingError, match="leave --keep-precision out, or train with --engine pytorch"):
        refuse_others({"keep_precision": "bf16"})


def test_the_command_learns_without_pytorch_in_its_process(photos, weights_files, tmp_path):
    """The command is killed at an epoch's end, and then goes on; what it has loaded is read from its mapped files."""
    words = ["-d", "signs", "--data", photos, "--weights", weights_files["mobilenet_v2"], "--size", 32]
    words += ["--epochs", 12, "--batch-size", 8, "--workers", 1, "--engine", "onnxruntime"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "said", "w") as said:
        process = subprocess.Popen(
            [*DA3, *map(str, words)], cwd=tmp_path, env=environment, stderr=said, stdout=subprocess.DEVNULL
        )
    end = time.time() + 120
    while "epoch 1/12" not in (tmp_path / "said").read_text():
        assert process.poll() is None and time.time() < end, (tmp_path / "said").read_text()
        time.sleep(0.02)
    if sys.platform.startswith("linux"):
        with open(f"/proc/{process.pid}/maps") as file:
            mapped = file.read()
        assert "onnxruntime" in mapped and "torch" not in mapped and "matplotlib" not in mapped
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    done = command("-d", "signs", "--engine", "onnxruntime", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming at epoch" in done.stderr and "next: da3 export --domain signs" in done.stdout
    assert "MB at most, from start to end" in done.stdout


def test_what_learns_imports_neither_pytorch_nor_the_command_line():
    code = "import sys, da3.toolchain.cli.engine_process; print(sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(eval(done.stdout))
    assert "numpy" in found and not found & {"torch", "typer", "rich", "matplotlib", "safetensors", "onnx", "PIL"}


@pytest.mark.slow
def test_a_budget_holds_for_a_real_process(asked):
    done, told = learnt(asked(memory_budget="300MB", micro_batch=None))
    assert done.budget == 300_000_000 and done.config.memory.micro_batch == 8
    assert any("which fits" in note for note in told.notes)
    with pytest.raises(TrainingError, match=r"the smallest that works is \d+ MB"):
        learnt(asked("small", memory_budget="20MB"))


def test_benchmarks_name_an_engine_of_da3():
    (one,) = parse(["da3:engine=onnxruntime,micro-batch=1"], {"keep-precision": "int8"})
    assert one.engine == "onnxruntime" and one.memory.micro_batch == 1
    with pytest.raises(TrainingError, match="no option 'engine'"):
        parse(["linear:engine=onnxruntime"])
    with pytest.raises(TrainingError, match="gradient means nothing to onnxruntime"):
        parse(["da3:engine=onnxruntime,gradient=exact"])
