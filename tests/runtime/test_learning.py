"""`learn`: a domain learnt by the engine, as `da3 train` learns it, resumable, and put into the bundle."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import Stops, StopsAmidChoice, same, tensors_of, untimed

from da3.export.exporter import export_domain
from da3.runtime import Runtime
from da3.runtime.app.commands import LEARN, main, parser
from da3.runtime.app.configuration import take_defaults
from da3.runtime.bundle import Bundle, read_domain
from da3.runtime.errors import BackendError, BundleError, CheckpointError, Da3Error, DataError, TrainingError
from da3.runtime.learning import LearnOptions, learn
from da3.runtime.training import Reporter, find_photos
from da3.runtime.training.checkpoint import read
from da3.toolchain.backbones import load_weights
from da3.toolchain.training import BackboneStore, TrainOptions, train

ARCH, SIZE = "mobilenet_v2", 32
BACKENDS = ("onnxruntime", "reference")


@pytest.fixture
def home(backbone_alone, tmp_path):
    """A bundle of one's own, in the test's folder."""
    return Path(shutil.copytree(backbone_alone, tmp_path / "bundle"))


@pytest.fixture
def asked(home, photos, tmp_path):
    """asked(**changes): options of a run of seconds."""

    def make(**changes):
        options = {
            "domain": "stripes",
            "photos": str(photos),
            "bundle": str(home),
            "runs": str(tmp_path / "runs"),
            "epochs": 2,
            "batch_size": 8,
            "micro_batch": 3,
            "threads": 1,
            "workers": 1,
        }
        return LearnOptions(**{**options, **changes})

    return make


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_run_as_with_pytorch(backend, asked, photos, tmp_path):
    """The same photos, crops, statistics, losses, steps and answers, up to rounding, which grows from step to step."""
    ours = learn(asked(backend=backend, keep=0.7), Reporter())
    theirs = train(
        TrainOptions(
            domain="stripes",
            data=str(photos),
            runs=tmp_path / "torch",
            weights="demo",
            size=SIZE,
            epochs=2,
            batch_size=8,
            keep=0.7,
            workers=1,
            keep_precision="fp32",
        ),
        Reporter(),
    )
    for row, expected in zip(ours.history, theirs.history, strict=True):
        assert row.keys() == expected.keys()
        for name in ("epoch", "train_share", "val_share", "lr"):
            assert row[name] == pytest.approx(expected[name], rel=1e-6)
        for name in ("train_loss", "val_loss"):
            assert row[name] == pytest.approx(expected[name], rel=2e-2), name
    assert ours.history[0]["train_loss"] == pytest.approx(theirs.history[0]["train_loss"], rel=1e-3)
    mine, other = (tensors_of(Path(done.folder) / "last.safetensors") for done in (ours, theirs))
    assert mine.keys() == other.keys()
    for name in mine:
        assert mine[name].shape == other[name].shape and mine[name].dtype == other[name].dtype
        if name.endswith(("mean", "std", "out_scale")):  # measured before the first step
            assert np.allclose(mine[name], other[name], rtol=1e-4, atol=1e-5), name
    a, b = (read(Path(done.folder) / "last.safetensors").config for done in (ours, theirs))
    assert a._replace(memory=b.memory) == b


@pytest.mark.parametrize("backend", BACKENDS)
def test_learns_and_puts_the_domain_into_the_bundle(backend, asked, home, photos):
    done = learn(asked(backend=backend, epochs=8, keep=0.7), Reporter())
    assert done.best["val_accuracy"] >= 0.9
    assert done.history[-1]["train_loss"] < 0.8 * done.history[0]["train_loss"]
    with Bundle(home) as bundle:
        bundle.verify()
        domain = read_domain(bundle, "stripes")
    assert domain._replace(weights={}) == done.domain._replace(weights={})
    assert same({name: domain.weights[name] for name in done.domain.weights}, done.domain.weights)
    assert domain.classes == ("class0", "class1", "class2") and domain.closed == ()
    assert any(rule.threshold is not None for rule in domain.exits) and domain.calibration["photos"] == 12
    assert domain.metrics["val_accuracy"] == done.best["kept_accuracy"]
    paths, labels = zip(*find_photos(photos, 0).val, strict=True)
    with Runtime(home, backend=backend) as runtime:
        predictions = runtime.run(list(paths), "stripes")
        everything = runtime.run(list(paths), "stripes", force_all_blocks=True)
    right = [p.index == label for p, label in zip(everything, labels, strict=True)]
    assert np.mean(right) == pytest.approx(done.best["val_accuracy"])
    assert np.mean([p.flops_share for p in predictions]) < 0.75
    assert np.mean([p.index == label for p, label in zip(predictions, labels, strict=True)]) >= 0.8


@pytest.mark.parametrize("backend", BACKENDS)
def test_resumed_equals_uninterrupted(backend, asked, tmp_path):
    """Stopped at the first step, in the middle of an epoch, and between its last step and its evaluation."""
    whole = learn(asked(backend=backend, domain="whole", epochs=3), Reporter())
    for after in (1, 2, 3):
        reporter = Stops(after)
        stopped = learn(asked(backend=backend, epochs=3, resume=after > 1), reporter, reporter)
        assert stopped.domain is None
    resumed = learn(asked(backend=backend, resume=True, epochs=None, photos=None), Reporter())
    assert untimed(whole.history) == untimed(resumed.history)
    for name in ("last", "best"):
        a, b = (tensors_of(Path(done.folder) / f"{name}.safetensors") for done in (whole, resumed))
        assert same(a, b)
    assert same(whole.domain.weights, resumed.domain.weights)


@pytest.mark.slow
def test_closed_blocks_and_stopped_while_choosing_them(asked, home):
    """Nothing of a choice is kept until it is made, and it is made again from the same photos."""
    options = {"keep": 0.45, "epochs": 6, "micro_batch": 8}
    whole = learn(asked(domain="whole", **options), Reporter())
    assert len(whole.domain.closed) >= 2 and 0.7 < whole.best["val_share"] < 0.77
    assert whole.best["kept_share"] < 0.5 and whole.best["val_accuracy"] >= 0.75
    for stops, after in enumerate((4, 9, 13)):  # amid the fit, amid the costs, and amid the choice after the next
        reporter = StopsAmidChoice(after)
        assert learn(asked(**options, resume=stops > 0), reporter, reporter).domain is None
    resumed = learn(asked(**options, resume=True), Reporter())
    assert untimed(whole.history) == untimed(resumed.history)
    a, b = (tensors_of(Path(done.folder) / "last.safetensors") for done in (whole, resumed))
    assert same(a, b) and a["closed"].sum() == len(whole.domain.closed)
    with Runtime(home) as runtime:
        result = runtime.run_batch(np.zeros((2, 3, SIZE, SIZE), np.float32), "stripes")
        assert not result.blocks[:, list(whole.domain.closed)].any()
        stored = runtime.load("stripes").weights
    assert same(resumed.domain.weights, {name: stored[name] for name in resumed.domain.weights})


def test_any_slicing_learns_the_same(asked):
    first = [learn(asked(domain=f"d{n}", micro_batch=n, epochs=1), Reporter()).history[0] for n in (1, 3, 8)]
    for row in first[1:]:
        assert row["train_loss"] == pytest.approx(first[0]["train_loss"], rel=1e-3)


def test_what_a_run_leaves(asked, home):
    done = learn(asked(), Reporter())
    names = {path.name for path in Path(done.folder).iterdir()}
    written = {"best.safetensors", "last.safetensors", "metrics.jsonl", "options.toml", "samples.npy", "validation.npz"}
    assert names == written
    rows = [json.loads(line) for line in (Path(done.folder) / "metrics.jsonl").read_text().splitlines()]
    assert rows == done.history
    made = parser(LEARN, "learn")
    take_defaults(made, "learn", ["--config", str(Path(done.folder) / "options.toml")])
    again = made.parse_args(["--epochs", "4"])
    told = asked(epochs=4)
    assert (again.domain, again.photos, again.bundle, again.runs) == (told.domain, told.photos, told.bundle, told.runs)
    assert (again.epochs, again.batch_size, again.micro_batch, again.threads) == (4, 8, "3", 1)
    assert np.load(Path(done.folder) / "samples.npy").shape == (8, SIZE, SIZE, 3)
    answers = np.load(Path(done.folder) / "validation.npz")
    assert answers["logits"].shape == (12, 5, 3) and np.bincount(answers["labels"]).tolist() == [4, 4, 4]
    right = answers["logits"][:, -1].argmax(1) == answers["labels"]
    assert right.mean() == pytest.approx(done.history[-1]["val_accuracy"])
    assert not list((home / "domains").glob(".*"))


def test_da3_exports_what_was_learnt_here(asked, home, tmp_path):
    done = learn(asked(epochs=3, keep=0.7), Reporter())
    BackboneStore(tmp_path / "runs").put(ARCH, load_weights("demo", ARCH))
    exported = export_domain("stripes", tmp_path / "runs", tmp_path / "exported")
    with Bundle(exported.path) as bundle:
        theirs = read_domain(bundle, "stripes")
    ours = done.domain
    assert ours._replace(weights={}) == theirs._replace(weights={})
    for name, array in ours.weights.items():  # theirs also has zeros for bypasses that nobody needs
        assert np.allclose(theirs.weights[name], array, rtol=2e-3, atol=1e-5), name
    images = np.random.RandomState(0).randn(6, 3, SIZE, SIZE).astype(np.float32)
    answers = []
    for folder in (home, exported.path):
        with Runtime(folder) as runtime:
            answers.append(runtime.run_batch(images, "stripes", force_all_blocks=True).logits)
    assert np.abs(answers[0] - answers[1]).max() <= 2e-3 * np.abs(answers[1]).max()


def test_da3_train_goes_on_with_what_was_begun_here(asked, tmp_path):
    reporter = Stops(2)
    assert learn(asked(), reporter, reporter).domain is None
    BackboneStore(tmp_path / "runs").put(ARCH, load_weights("demo", ARCH))
    ended = train(TrainOptions(domain="stripes", runs=tmp_path / "runs", resume=True), Reporter())
    whole = learn(asked(domain="whole"), Reporter())
    assert ended.finished
    for row, expected in zip(ended.history, whole.history, strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=2e-2)


def command(home, photos, *more):
    words = ["-m", "da3.runtime", "learn", "--domain", "stripes", str(photos), "--bundle", str(home)]
    return [sys.executable, *words, "--batch-size", "8", "--threads", "1", "--epochs", "60", *more]


def wait_for_epochs(path, count, process):
    for _ in range(600):
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    pytest.fail("no epoch ended within a minute")


@pytest.mark.parametrize("way", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_stopped_and_killed(way, home, photos, package_root, asked, tmp_path):
    env = dict(os.environ, PYTHONPATH=str(package_root))
    process = subprocess.Popen(
        command(home, photos), cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for_epochs(tmp_path / "runs" / "stripes" / "metrics.jsonl", 2, process)
    process.send_signal(way)
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    if way == signal.SIGINT:
        assert process.returncode == 130, errors
        assert f"learn --domain stripes --bundle {home} --resume" in output
    with Bundle(home) as bundle:
        assert bundle.domains == []
    progress = read(tmp_path / "runs" / "stripes" / "last.safetensors").progress
    assert progress.epoch >= 2 and len(progress.history) == progress.epoch

    # From there on the run is the uninterrupted one: compare the next epochs of both. Graphs are made as the command
    # makes them, so that each sum has its order.
    class Until(Reporter):
        def __init__(self, epochs):
            self.left = epochs

        def epoch(self, row):
            self.left -= 1

        def __call__(self):
            return self.left <= 0

    more = Until(2)
    resumed = learn(asked(resume=True, epochs=60, micro_batch=None, apart=True), more, more)
    fresh = Until(len(resumed.history))
    whole = learn(asked(epochs=60, micro_batch=None, apart=True, runs=str(tmp_path / "whole")), fresh, fresh)
    assert len(resumed.history) == progress.epoch + 2
    assert untimed(resumed.history) == untimed(whole.history)


def test_the_command(home, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        "learn",
        "-d",
        "stripes",
        str(photos),
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--keep",
        "0.7",
        "--threads",
        "1",
    ]
    assert main(words, "da3") == 0
    output, errors = capsys.readouterr()
    assert "24 photos to train on, 12 to validate on, 3 classes" in errors and "epoch 1/1  loss" in errors
    assert output.splitlines()[-1] == "domain stripes is in bundle. Run it: da3 run-engine --domain stripes photo.jpg"
    picture = next((photos / "val" / "class0").iterdir())
    assert main(["run-engine", "--domain", "stripes", str(picture)], "da3") == 0
    assert str(picture) in capsys.readouterr().out
    assert main(words, "da3") == 1
    assert capsys.readouterr().err == (
        "error: runs/stripes already holds a run: continue it with --resume, or replace it with --overwrite\n"
    )
    assert main([*words, "--overwrite", "--no-flip"], "da3") == 0
    assert not read(Path("runs/stripes/last.safetensors")).config.flip
    shutil.rmtree("runs")
    assert main(words, "da3") == 1
    assert "already has a domain stripes: replace it with --overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"domain": "../etc"}, TrainingError, "letters, digits"),
        ({"epochs": 0}, TrainingError, "--epochs 0: must be between 1"),
        ({"batch_size": 0}, TrainingError, "--batch-size 0"),
        ({"lr": -1.0}, TrainingError, "--lr -1"),
        ({"seed": -1}, TrainingError, "--seed -1"),
        ({"keep": 1.5}, TrainingError, "--keep 1.5"),
        ({"keep": 0.05}, TrainingError, "cannot go below 0.*every block that can be is closed"),
        ({"resume": True, "overwrite": True}, TrainingError, "exclude each other"),
        ({"backend": "openvino"}, TrainingError, "learning runs on onnxruntime, cuda, tensorrt, reference"),
        ({"precision": "fp16", "backend": "reference"}, TrainingError, "--precision fp16: learning has it with"),
        ({"precision": "bf16"}, TrainingError, "--precision bf16: learning knows fp32 and fp16"),
        ({"photos": None}, TrainingError, "which photos"),
        ({"photos": None, "resume": True}, TrainingError, "which photos"),
        ({"photos": "no/such/folder"}, DataError, "does not exist"),
        ({"bundle": "gone"}, BundleError, "no bundle at gone"),
    ],
)
def test_bad_options(changes, error, message, asked, home, tmp_path):
    with pytest.raises(error, match=message) as caught:
        learn(asked(**changes), Reporter())
    assert isinstance(caught.value, Da3Error) and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists() and not (home / "domains").exists(), "nothing may be left behind"


def test_what_cannot_be_learnt_on(asked, built, home, tmp_path):
    zipped = shutil.make_archive(str(tmp_path / "zipped"), "zip", home)
    for bundle, message in ((zipped, "read-only: unzip it first"), (built[0], "is of format 1")):
        with pytest.raises(BundleError, match=message):
            learn(asked(bundle=str(bundle)), Reporter())
    assert not (tmp_path / "runs").exists()


def test_resume_of_another_run_is_refused(asked, home, tmp_path):
    stop = Stops(1)
    learn(asked(), stop, stop)
    with pytest.raises(TrainingError, match=r"--epochs was 2, now 3.*--lr was 0\.004, now 0\.1"):
        learn(asked(resume=True, epochs=3, lr=0.1), Reporter())
    with pytest.raises(TrainingError, match="photos were .*, now "):
        learn(asked(resume=True, photos=str(tmp_path)), Reporter())
    manifest = json.loads((home / "manifest.json").read_text())
    manifest["backbone"]["sha256"] = "0" * 64
    (home / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(TrainingError, match="on another backbone than this bundle's"):
        learn(asked(resume=True), Reporter())


def test_damaged_checkpoint(asked):
    done = learn(asked(), Reporter())
    path = Path(done.folder) / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        learn(asked(resume=True), Reporter())


def test_diverging_stops_with_advice_and_a_good_checkpoint(asked, monkeypatch):
    from da3.runtime.learning import trainee

    real = trainee.GraphTrainee.gradients
    losses = iter([1.0, 1.0, float("nan")])

    def gradients(self, *facts):
        found = real(self, *facts)
        return found._replace(loss=found.loss * next(losses))

    monkeypatch.setattr(trainee.GraphTrainee, "gradients", gradients)
    with pytest.raises(TrainingError, match="loss became nan in epoch 1: try a lower --lr"):
        learn(asked(), Reporter())
    assert read(Path(asked().folder) / "last.safetensors").progress.step == 0


def test_without_onnxruntime_it_says_what_there_is(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match="pip install.*with TensorRT.*--backend reference, which is slow"):
        learn(asked(), Reporter())
