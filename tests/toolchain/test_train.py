"""The training loop: resumable at any step, the same for the same seed, and honest about bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import Stops, StopsAmidChoice, same, tensors_of, untimed

from da3.runtime.errors import Da3Error, InUseError
from da3.runtime.system import exclusive
from da3.runtime.training import RUN_FILES, AdaptorSpec
from da3.runtime.training.checkpoint import read
from da3.toolchain.backbones import NAMES, load_weights
from da3.toolchain.errors import CheckpointError, DataError, TrainingError, WeightsError
from da3.toolchain.methods import METHODS
from da3.toolchain.training import checkpoint as ckpt
from da3.toolchain.training.adamw import AdamW
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

# EfficientNet-Lites have the blocks of MobileNetV2, and ResNet-34 those of ResNet-18; a ResNet-50 takes its time.
_LIKE_ANOTHER = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet34", "resnet50")
ARCHS = [pytest.param(n, marks=pytest.mark.slow if n in _LIKE_ANOTHER else ()) for n in NAMES]


def train_with_stops(options, stops):
    """Train to the end, stopping after each number of steps in ``stops``."""
    for after in stops:
        reporter = Stops(after)
        assert not train(options(), reporter, reporter).finished
    return train(options(resume=bool(stops)), SilentReporter())


@pytest.mark.parametrize("arch", ARCHS)
def test_resumed_equals_uninterrupted(arch, small_run):
    def options(domain):
        return lambda **changes: small_run(domain, backbone=arch, keep=0.54, **changes)

    whole = train_with_stops(options("whole"), [])
    resumed = train_with_stops(options("resumed"), [2])
    assert untimed(whole.history) == untimed(resumed.history)
    for name in ("last", "best"):
        a, b = (
            tensors_of(whole.folder / f"{name}.safetensors"),
            tensors_of(resumed.folder / f"{name}.safetensors"),
        )
        assert same(a, b)


def test_stopped_while_choosing_what_to_close(small_run):
    """Nothing of a choice is kept until it is made, and it is made again from the same photos."""

    def options(domain, **changes):
        return small_run(domain, keep=0.5, epochs=8, **changes)

    quiet = StopsAmidChoice()
    whole = train(options("whole"), quiet)
    assert whole.best["val_share"] < 0.8 and quiet.seen > 2 * 10, "several blocks must have been chosen"
    for stops, after in enumerate((4, 9, 13)):  # amid the fit, amid the costs, and amid the choice after the next
        reporter = StopsAmidChoice(after)
        assert not train(options("again", resume=stops > 0), reporter, reporter).finished
    resumed = train(options("again", resume=True), SilentReporter())
    assert untimed(whole.history) == untimed(resumed.history)
    a, b = (tensors_of(r.folder / "last.safetensors") for r in (whole, resumed))
    assert same(a, b)


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in ("da3", "finetune") else pytest.mark.slow) for m in METHODS]
)
def test_every_method_trains_resumes_and_evaluates(method, small_run):
    """Stopped at the first step, in the middle of an epoch, and between its last step and its evaluation."""
    whole = train(small_run("whole", method=method, epochs=3), SilentReporter())
    first = Stops(1)
    assert not train(small_run("again", method=method, epochs=3), first, first).finished
    for after in (2, 3):
        reporter = Stops(after)
        assert not train(small_run("again", resume=True, epochs=None), reporter, reporter).finished
    resumed = train(small_run("again", resume=True, epochs=None), SilentReporter())
    assert untimed(whole.history) == untimed(resumed.history)
    a, b = (tensors_of(r.folder / "last.safetensors") for r in (whole, resumed))
    assert same(a, b)
    # The checkpoint alone rebuilds a model that scores what was recorded.
    found = read(whole.folder / "best.safetensors")
    weights = ckpt.BackboneStore(whole.folder.parent).get(found.config.backbone, found.config.weights_sha256)
    output = ckpt.learner_of(found, weights).forward(torch.zeros(2, 3, 32, 32))
    assert output.logits.shape == (2, 3) and torch.isfinite(output.logits).all()


def test_learns(small_run):
    result = train(small_run("stripes", epochs=6, weights="demo"), SilentReporter())
    assert result.best["val_accuracy"] >= 0.9
    assert result.history[-1]["train_loss"] < 0.85 * result.history[0]["train_loss"]


def test_seed_decides_everything(small_run):
    rows = [
        untimed(train(small_run(f"run{i}", seed=seed, keep=0.54), SilentReporter()).history)
        for i, seed in enumerate([0, 0, 1])
    ]
    assert rows[0] == rows[1] != rows[2]


def test_what_a_run_leaves(small_run, curves_are_drawn):
    result = train(small_run(), SilentReporter())
    names = {p.name for p in result.folder.iterdir()}
    assert names == {*RUN_FILES}
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history and [r["epoch"] for r in rows] == [1, 2]
    assert Image.open(result.folder / "curves.png").size[0] > 600
    assert np.load(result.folder / "samples.npy").shape == (8, 32, 32, 3)
    answers = np.load(result.folder / "validation.npz")
    assert answers["logits"].shape == (12, 5, 3) and answers["logits"].dtype == np.float32
    assert np.bincount(answers["labels"]).tolist() == [4, 4, 4]
    assert (np.diff(answers["cost"]) > 0).all() and answers["cost"][-1] == pytest.approx(1)
    right = answers["logits"][:, -1].argmax(1) == answers["labels"]
    assert right.mean() == pytest.approx(result.history[-1]["val_accuracy"])
    config = read(result.folder / "last.safetensors").config
    stored = ckpt.BackboneStore(result.folder.parent).get("mobilenet_v2", config.weights_sha256)
    assert stored.sha256("mobilenet_v2") == config.weights_sha256


COMMAND = [
    sys.executable,
    "-m",
    "da3.toolchain.cli.main",
    "train",
    "--domain",
    "signs",
    "--size",
    "32",
    "--batch-size",
    "4",
]


def start(photos, folder):
    arguments = ["--data", photos, "--weights", "demo", "--runs", folder, "--epochs", "60"]
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
    )


def wait_for_epochs(folder, count, process):
    path = folder / "signs" / "metrics.jsonl"
    for _ in range(600):
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    pytest.fail("no epoch ended within a minute")


def test_ctrl_c_saves_and_says_how_to_go_on(photos, tmp_path):
    process = start(photos, tmp_path / "runs")
    wait_for_epochs(tmp_path / "runs", 1, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in output and "Traceback" not in errors
    progress = read(tmp_path / "runs" / "signs" / "last.safetensors").progress
    assert progress.epoch >= 1 and len(progress.history) == progress.epoch


def test_kill_leaves_a_checkpoint_to_go_on_from(photos, tmp_path):
    process = start(photos, tmp_path / "runs")
    wait_for_epochs(tmp_path / "runs", 2, process)
    process.kill()
    process.communicate()
    found = read(tmp_path / "runs" / "signs" / "last.safetensors")
    assert found.progress.epoch >= 2

    # From there on the run is the uninterrupted one: compare the next epochs of both.
    class TwoMore(SilentReporter):
        rows = ()

        def epoch(self, row):
            self.rows = (*self.rows, row)

    reporter = TwoMore()
    options = TrainOptions(domain="signs", runs=tmp_path / "runs", resume=True)
    result = train(options, reporter, lambda: len(reporter.rows) >= 2)
    assert not result.finished
    fresh = TwoMore()
    whole = TrainOptions(
        domain="signs",
        data=str(photos),
        runs=tmp_path / "whole",
        size=32,
        batch_size=4,
        weights="demo",
        epochs=60,
    )
    train(whole, fresh, lambda: len(fresh.rows) >= len(result.history))
    for ours, theirs in zip(untimed(result.history), untimed(fresh.rows), strict=False):
        # Another process may sum in another order (thread counts), so not to the last bit.
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)


def test_resume_with_other_options_is_refused(small_run):
    stop = Stops(1)
    train(small_run(), stop, stop)
    with pytest.raises(TrainingError, match=r"--epochs was 2, now 3.*--lr was 0\.004, now 0\.1"):
        train(small_run(resume=True, epochs=3, lr=0.1), SilentReporter())
    with pytest.raises(TrainingError, match="cannot resume .* with other weights"):
        train(small_run(resume=True, weights="demo"), SilentReporter())
    with pytest.raises(TrainingError, match="already holds a run.*--resume.*--overwrite"):
        train(small_run(), SilentReporter())
    with pytest.raises(TrainingError, match="exclude each other"):
        train(small_run(resume=True, overwrite=True), SilentReporter())
    (small_run().folder / "notes.txt").write_text("mine")
    assert train(small_run(overwrite=True), SilentReporter()).finished
    assert (small_run().folder / "notes.txt").exists(), "what a run did not write is not its to delete"


def test_an_overwritten_run_is_whole_or_none(small_run, monkeypatch):
    """Killed before its first step, behind that, and when nothing of the old run is left."""
    old = train(small_run(seed=5, epochs=1), SilentReporter()).folder
    names, moves = sorted(os.listdir(old)), ("remove", "replace")
    for number in (1, 2, 9):
        folder = Path(shutil.copytree(old, old.parent / f"killed{number}"))
        calls = []

        class Killed(BaseException):
            pass

        def counted(real, calls=calls, folder=folder, number=number, killed=Killed):
            def call(path, *more):
                if os.path.dirname(os.fspath(more[0] if more else path)) == str(folder):
                    calls.append(path)
                    if len(calls) == number:
                        raise killed
                return real(path, *more)

            return call

        with monkeypatch.context() as patch:
            for move in moves:
                patch.setattr(os, move, counted(getattr(os, move)))
            with pytest.raises(Killed):
                train(small_run(folder.name, epochs=1, overwrite=True), SilentReporter())
        if number == 1:  # nothing is removed yet
            assert sorted(os.listdir(folder)) == names and read(folder / "last.safetensors").config.seed == 5
        else:
            assert not (folder / "last.safetensors").exists()
    assert train(small_run("killed9", epochs=1, resume=True), SilentReporter()).finished


def test_two_do_not_train_in_one_folder(small_run):
    stop = Stops(1)
    folder = train(small_run(), stop, stop).folder
    with exclusive(folder), pytest.raises(InUseError, match=r"is in use by `.*` \(process \d+ on"):
        train(small_run(resume=True), SilentReporter())
    assert read(folder / "last.safetensors").progress.step == 1


def test_resume_of_nothing_starts(small_run):
    notes = []
    reporter = SilentReporter()
    reporter.note = notes.append
    assert train(small_run(resume=True), reporter).finished
    assert "nothing to resume" in notes[0]


@pytest.mark.parametrize(
    ("given", "features", "told"),
    [
        ({}, ["avx512f", "amx_bf16"], True),
        ({}, ["avx512f"], False),
        ({"backbone_precision": "bf16"}, ["amx_bf16"], False),
        ({"backbone_precision": "fp32"}, ["amx_bf16"], False),
        ({"method": "bias"}, ["amx_bf16"], False),
    ],
)
def test_who_could_train_in_half_the_time_is_told(given, features, told, small_run, monkeypatch):
    monkeypatch.setattr(sys.modules["da3.toolchain.training.train"], "cpu_features", lambda: features)
    notes = []
    reporter = SilentReporter()
    reporter.note = notes.append
    train(small_run(**given), reporter)
    assert any("--backbone-precision bf16" in note for note in notes) is told


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 500])
def test_damaged_checkpoint(damage, small_run):
    result = train(small_run(), SilentReporter())
    path = result.folder / "last.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged.*train again"):
        train(small_run(resume=True), SilentReporter())


def test_nan_never_replaces_a_checkpoint(small_run, monkeypatch):
    """A last step of an epoch may make it, behind the last loss that was looked at."""
    real = AdamW.step
    steps = []

    def step(self):
        real(self)
        steps.append(1)
        if len(steps) == 6:  # of 3 in an epoch
            with torch.no_grad():
                self.param_groups[0]["params"][-1].fill_(float("nan"))

    monkeypatch.setattr(AdamW, "step", step)
    with pytest.raises(CheckpointError, match=r"is not written, since model\..* NaN or infinity: .*lower --lr"):
        train(small_run(), SilentReporter())
    assert read(small_run().folder / "last.safetensors").progress.epoch == 1


def test_diverging_stops_with_advice_and_a_good_checkpoint(small_run, monkeypatch):
    real = METHODS["da3"].loss
    losses = iter([1.0, 1.0, float("nan")])
    monkeypatch.setattr(METHODS["da3"], "loss", lambda *facts: real(*facts) * next(losses))
    with pytest.raises(TrainingError, match="loss became nan in epoch 1: try a lower --lr"):
        train(small_run(), SilentReporter())
    assert read(small_run().folder / "last.safetensors").progress.step == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"size": 100}, TrainingError, "multiple of 32"),
        ({"epochs": 0}, TrainingError, "--epochs 0"),
        ({"batch_size": 0}, TrainingError, "--batch-size 0"),
        ({"keep": 1.5}, TrainingError, "--keep 1.5"),
        ({"keep": 0.05}, TrainingError, "cannot go below 0"),
        ({"lr": -1.0}, TrainingError, "--lr -1"),
        ({"seed": -1}, TrainingError, "--seed -1"),
        ({"method": "magic"}, TrainingError, "known are: da3"),
        ({"domain": "../etc"}, TrainingError, "letters, digits"),
        ({"device": "tpu9"}, TrainingError, "use auto, cpu or cuda"),
        ({"weights": "gone.pth"}, WeightsError, "gone.pth does not exist"),
        ({"data": "no/such/folder"}, DataError, "does not exist"),
        ({"data": None}, TrainingError, "pass --data FOLDER"),
    ],
)
def test_bad_options(changes, error, message, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as caught:
        train(small_run(**changes), SilentReporter())
    assert isinstance(caught.value, Da3Error) and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists(), "nothing may be left behind"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": "no/such/folder"}, DataError),
        ({"data": None}, TrainingError),
        ({"memory_budget": "lots"}, Da3Error),
        ({"device": "tpu9"}, TrainingError),
        ({"domain": "there"}, TrainingError),
        ({"domain": "there", "resume": True, "epochs": 3}, TrainingError),
        ({"domain": "there", "resume": True, "data": "another/folder"}, TrainingError),
    ],
)
def test_what_costs_nothing_is_checked_before_weights_are_loaded(changes, error, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stop = Stops(1)
    train(small_run("there"), stop, stop)

    def load(*facts):
        pytest.fail("weights were loaded")

    monkeypatch.setattr(sys.modules[train.__module__], "load_weights", load)
    monkeypatch.setattr("da3.toolchain.training.checkpoint.load_weights", load)
    with pytest.raises(error):
        train(small_run(**{"weights": "imagenet", **changes}), SilentReporter())


def test_a_resumed_run_may_change_its_slices_and_nothing_else_of_memory(small_run):
    stop = Stops(1)
    train(small_run(), stop, stop)
    with pytest.raises(TrainingError, match=r"options \(--keep-precision was int8, now fp32\): leave"):
        train(small_run(resume=True, keep_precision="fp32"), SilentReporter())
    result = train(small_run(resume=True, micro_batch=3, workers=1), SilentReporter())
    assert result.finished and result.config.memory.micro_batch == 3


@pytest.mark.parametrize("keep", [0.7, 0.5])
def test_where_photos_leave_is_chosen_for_keep(keep, small_run):
    result = train(small_run(keep=keep, epochs=6, weights="demo"), SilentReporter())
    found = read(result.folder / "best.safetensors")
    chosen = found.progress.calibration
    assert len(chosen["exits"]) == len(found.config.adaptor.exits) == 4
    assert chosen["calibration"]["goal"] == {"flops_share": keep} and chosen["calibration"]["photos"] == 12
    assert {rule["threshold"] for rule in chosen["exits"]} != {None} and chosen["temperature"] > 0
    assert chosen["calibration"]["cross_fit"]["flops_share"] == result.best["kept_share"] < 0.9
    assert 0 < result.history[-1]["kept_accuracy"] <= 1
    if keep < 0.6:
        assert found.model["closed"].any() and result.best["val_share"] < 0.9
    else:
        assert "closed" not in found.model and result.best["val_share"] == 1
    assert train(small_run("all"), SilentReporter()).history[-1].keys() == result.history[0].keys() - {
        "kept_share",
        "kept_accuracy",
    }
    assert read(small_run("all").folder / "best.safetensors").progress.calibration is None


@pytest.mark.parametrize("format", [1, 2, 3])
def test_an_unfinished_run_of_an_older_format_is_refused(format, small_run):
    stop = Stops(1)
    folder = train(small_run(), stop, stop).folder
    rewrite_as(format, folder / "last.safetensors")
    with pytest.raises(TrainingError, match="begun by an older da3.*start again with --overwrite") as caught:
        train(small_run(resume=True), SilentReporter())
    assert "\n" not in str(caught.value)
    assert train(small_run(overwrite=True), SilentReporter()).finished


def rewrite_as(format, path, keep=1.0):
    """Make of a checkpoint without exits what da3 wrote in an older format: gates beside adaptors."""
    found, tensors = read(path), load_file(path)
    config = found.config._replace(keep=keep).to_json()
    if format == 1:
        config["lean"] = config.pop("memory")
    for name, value in list(tensors.items()):
        if name.startswith("model.adaptors.") and name.endswith(".down_bias"):
            tensors[name.replace("down_bias", "gate")] = torch.zeros_like(value)
            tensors[name.replace("down_bias", "gate_bias")] = torch.tensor(2.0)
    tensors["model.running_share"] = torch.tensor(1.0)
    progress = found.progress.to_json()
    del progress["calibration"]
    save_file(tensors, path, {"da3": json.dumps({"format": format, "config": config, "progress": progress})})


@pytest.fixture
def no_exits(monkeypatch):
    """Runs have none, as runs of older formats had none."""
    module = sys.modules[type(TrainOptions(domain="a")).__module__]
    monkeypatch.setattr(module, "adaptor_spec", lambda arch, weights, size: AdaptorSpec.of(arch))


@pytest.mark.parametrize("format", [1, 2])
def test_a_finished_run_of_an_older_format_is_still_good(format, small_run, no_exits):
    whole = train(small_run(), SilentReporter())
    before = tensors_of(whole.folder / "best.safetensors")
    for name in ("best", "last"):
        rewrite_as(format, whole.folder / f"{name}.safetensors")
    again = train(small_run(resume=True), SilentReporter())
    assert again.finished and untimed(again.history) == untimed(whole.history)
    found = read(whole.folder / "best.safetensors")
    weights = ckpt.BackboneStore(whole.folder.parent).get(found.config.backbone, found.config.weights_sha256)
    learner = ckpt.learner_of(found, weights)
    state = ckpt.arrays_of(learner.domain_state())
    assert not learner.model.exits and all((state[k] == before[k]).all() for k in state)


def test_exits_that_saw_no_neighbours_are_still_good(small_run):
    """As format 3 had them; with what they have not learnt at zero, they answer what they answered."""
    best = train(small_run(), SilentReporter()).folder / "best.safetensors"
    today, tensors = read(best), load_file(best)
    exits = [name for name in tensors if re.fullmatch(r"model\.exits\.\d+\.down", name)]
    for name in exits:
        tensors[name] = tensors[name].chunk(2, 1)[0].contiguous()
    facts = {"format": 3, "config": today.config.to_json(), "progress": today.progress.to_json()}
    save_file(tensors, best, {"da3": json.dumps(facts)})
    weights = ckpt.BackboneStore(best.parent.parent).get(today.config.backbone, today.config.weights_sha256)
    state = ckpt.learner_of(read(best), weights).domain_state()
    assert exits and all(state[name[6:]].chunk(2, 1)[0].equal(tensors[name]) for name in exits)
    assert not any(state[name[6:]].chunk(2, 1)[1].any() for name in exits)
    assert all(state[name[6:]].equal(value) for name, value in tensors.items() if name not in exits)


def test_a_gated_run_of_an_older_format_is_refused(small_run, no_exits):
    whole = train(small_run(), SilentReporter())
    rewrite_as(2, whole.folder / "best.safetensors", keep=0.7)
    found = read(whole.folder / "best.safetensors")
    weights = ckpt.BackboneStore(whole.folder.parent).get(found.config.backbone, found.config.weights_sha256)
    with pytest.raises(CheckpointError, match=r"best\.safetensors was trained by an older da3 .*again") as caught:
        ckpt.learner_of(found, weights)
    assert "\n" not in str(caught.value)


def test_unreadable_photos_are_skipped_and_named(photos, small_run, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    good = (folder / "train" / "class0" / "0.jpg").read_bytes()
    (folder / "train" / "class0" / "truncated.jpg").write_bytes(good[: len(good) // 2])
    (folder / "train" / "class1" / "text.jpg").write_text("no picture")
    (folder / "val" / "class1" / "empty.png").write_bytes(b"")
    result = train(small_run(data=str(folder)), SilentReporter())
    assert {os.path.basename(p) for p, _ in result.unreadable} == {"truncated.jpg", "text.jpg", "empty.png"}
    assert all(path in reason for path, reason in result.unreadable)


def test_changed_classes_stop_a_resume(photos, small_run, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    stop = Stops(1)
    train(small_run(data=str(folder)), stop, stop)
    shutil.rmtree(folder / "val" / "class2")
    shutil.rmtree(folder / "train" / "class2")
    with pytest.raises(TrainingError, match="classes in .* changed"):
        train(small_run(resume=True, data=str(folder)), SilentReporter())


@pytest.mark.parametrize(("photos", "batch"), [(10, 8), (100, 12), (300, 16), (10_000, 16)])
def test_few_photos_get_small_batches(photos, batch, small_run, weights_files):
    weights = load_weights(str(weights_files["mobilenet_v2"]), "mobilenet_v2")
    assert small_run(batch_size=None).config(weights, ("a", "b"), photos).batch_size == batch
    assert small_run(batch_size=5).config(weights, ("a", "b"), photos).batch_size == 5


def test_embedded_weights_have_their_own_size(photos, small_run):
    options = small_run(weights="demo", size=None)
    result = train(options, SilentReporter())
    expected = load_weights("demo", "mobilenet_v2")
    config = read(result.folder / "best.safetensors").config
    assert config.size == expected.input_size and config.weights_sha256 == expected.sha256("mobilenet_v2")
