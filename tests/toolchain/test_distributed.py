"""Several processes learn what one learns, up to the order of summation; here they are threads, see thread_group."""

import json
import threading

import numpy as np
import pytest
import torch
from small_runs import Stops
from thread_group import together

from da3.runtime.app import domain_info
from da3.runtime.training import MemorySettings
from da3.runtime.training.checkpoint import read
from da3.toolchain.backbones import random_weights
from da3.toolchain.distributed import LostError
from da3.toolchain.distributed.joining import device_of
from da3.toolchain.errors import CheckpointError, TrainingError
from da3.toolchain.methods import METHODS, Task, adaptor_spec
from da3.toolchain.process import children
from da3.toolchain.process.launch import Launch, launched
from da3.toolchain.training.exchange import exchanged
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train
from da3.toolchain.training.trainee import TorchTrainee

SIZE, CLASSES = 32, 3
DRAWS = threading.Lock()  # threads have one generator, processes one each
SLICEABLE = [
    pytest.param(name, marks=() if name == "da3" else pytest.mark.slow)
    for name, method in METHODS.items()
    if method.sliceable
]


@pytest.fixture(scope="module")
def weights():
    return random_weights("mobilenet_v2", 0.35)


def learner_of(name, weights, keep=1.0):
    memory = MemorySettings(keep_precision="fp32")
    spec = adaptor_spec("mobilenet_v2", weights, SIZE)
    task = Task(arch="mobilenet_v2", size=SIZE, classes=CLASSES, flops_budget=keep, adaptor=spec, memory=memory)
    with DRAWS:
        torch.manual_seed(0)
        learner = METHODS[name](task, weights)
    with torch.no_grad():  # heads and adaptors begin with zeros, behind which nothing has a gradient
        generator = torch.Generator().manual_seed(1)
        for parameter in learner.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return learner


def batch(count):
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    return pixels, torch.arange(count) % CLASSES


def close(ours, theirs, to=2e-5):
    assert (ours is None) == (theirs is None)
    if ours is not None:
        ours, theirs = ours.detach(), theirs.detach()
        scale = float(theirs.abs().max()) or 1.0
        assert float((ours - theirs).abs().max()) <= to * scale, (float((ours - theirs).abs().max()), scale)


# -- a step


@pytest.mark.parametrize(("count", "size"), [(7, 3), (2, 3)])
@pytest.mark.parametrize("name", SLICEABLE)
def test_the_sum_of_the_parts_is_the_batchs_gradient(name, count, size, weights):
    pixels, labels = batch(count)
    alone = learner_of(name, weights, keep=0.5)  # bypasses of open blocks have no gradient
    alone.train_mode(0.5)
    expected = alone.step(pixels, labels, 0.1)

    def part(group):
        learner = learner_of(name, weights, keep=0.5)
        learner.total = group.total
        learner.train_mode(0.5)
        rows = group.part(count)
        result = exchanged(learner, learner.step(pixels[rows], labels[rows], 0.1, count))
        return learner, result, group.sent

    found = together(size, part)
    for learner, result, sent in found:
        assert result.correct == expected.correct and result.share == expected.share
        assert result.loss == pytest.approx(expected.loss, rel=1e-5)
        ours, theirs = learner.parameters(), alone.parameters()
        assert any(p.grad is not None and p.grad.any() for p in theirs)
        for mine, other, first in zip(ours, theirs, found[0][0].parameters(), strict=True):
            close(mine.grad, other.grad)
            assert mine.grad is None or torch.equal(mine.grad, first.grad)
        assert sent == 4 * (sum(p.numel() for p in ours) + len(ours) + 2)


def test_a_part_without_a_photo_says_nothing_of_its_own(weights):
    learner = learner_of("da3", weights)
    pixels, labels = batch(0)
    result = learner.step(pixels, labels, 0.1, 4)
    assert (result.loss, result.correct, result.share) == (0.0, 0, 1.0)
    assert all(p.grad is None for p in learner.parameters())


# -- what is looked at before and between the steps


@pytest.mark.parametrize("name", SLICEABLE)
def test_statistics_are_those_of_all_photos(name, weights):
    pixels, _ = batch(7)

    def prepared(rows, total=None):
        learner = learner_of(name, weights)
        if total is not None:
            learner.total = total
        learner.prepare(lambda: (learner.normalise(few) for few in torch.split(pixels[rows], 2)) if rows else ())
        return learner.domain_state()

    alone = prepared(range(7))
    parts = together(3, lambda group: prepared(range(7)[group.part(7)], group.total))
    for state in parts:
        for key, value in alone.items():
            close(state[key].float(), value.float(), 1e-6)
            assert torch.equal(state[key], parts[0][key])


@pytest.mark.slow
def test_the_same_blocks_are_closed_with_the_same_bypasses(weights):
    pixels, labels = batch(15)

    def revised(group=None):
        learner = learner_of("da3", weights, keep=0.5)
        rows = slice(None)
        if group is not None:
            learner.total = group.total
        learner.prepare(lambda: [learner.normalise(pixels)[rows]] if group is None or group.first else [])

        def photos(draw):
            for start in range(0, 1000, 5):
                at = torch.arange(start, start + 5) % len(labels)
                at = at if group is None else at[group.part(5)]
                yield pixels[at], labels[at]

        learner.revise(0.4, photos)
        return learner.model

    alone = revised()
    assert alone.closed_blocks
    for model in together(2, revised):
        assert model.closed_blocks == alone.closed_blocks
        for block in alone.closed_blocks:
            if alone.bypass(block) is not None:
                ours, theirs = model.bypass(block), alone.bypass(block)
                close(ours.up @ ours.down, theirs.up @ theirs.down, 1e-3)


# -- whole runs


def run_together(options, size, tmp_path, stops=None):
    """Each thread has a folder of its own, of which only the first one's is to be used."""
    if stops is None:
        stops = {}

    def run(group):
        own = options if group.first else options.__class__(**{**vars(options), "runs": tmp_path / f"of{group.rank}"})
        stop = stops.get(group.rank, lambda: False)
        return train(own, stop if isinstance(stop, Stops) else SilentReporter(), stop, group)

    results = together(size, run)
    assert not list(tmp_path.glob("of*"))
    return results


def alike(ours, theirs):
    """Two runs' last checkpoints, up to the order of summation; and what they say of each epoch."""
    ours, theirs = read(ours), read(theirs)
    for name, expected in theirs.model.items():
        scale = float(np.abs(expected).max()) or 1.0
        assert float(np.abs(ours.model[name] - expected).max()) <= 2e-2 * scale, name
    for mine, other in zip(ours.progress.history, theirs.progress.history, strict=True):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=2e-3)
        assert mine["val_loss"] == pytest.approx(other["val_loss"], rel=2e-3)
        assert mine["lr"] == other["lr"] and mine["val_share"] == other["val_share"]


@pytest.fixture
def exact(small_run, more_photos):
    """Options of a run in full precision, so that nothing but the order of summation differs."""

    def make(**changes):
        settings = {"data": str(more_photos), "keep_precision": "fp32", "weights": "demo", "batch_size": 7}
        return small_run(**{**settings, **changes})

    return make


@pytest.mark.slow
def test_three_learn_what_one_learns(exact, tmp_path):
    alone = exact(runs=tmp_path / "alone", lr=1e-3)
    train(alone, SilentReporter())
    options = exact(runs=tmp_path / "three", lr=1e-3)
    results = run_together(options, 3, tmp_path)
    assert all(result.finished for result in results)
    alike(options.folder / "last.safetensors", alone.folder / "last.safetensors")
    best, expected = read(options.folder / "best.safetensors"), read(alone.folder / "best.safetensors")
    assert best.provenance["processes"] == 3 and "processes" not in expected.provenance
    assert [row["processes"] for row in best.progress.history] == [3, 3]
    assert best.familiar.photos == expected.familiar.photos == (24, 24)
    assert best.familiar.energy == pytest.approx(expected.familiar.energy, rel=2e-2)
    for name, look in expected.familiar.looks.items():
        ours = best.familiar.looks[name]
        assert (ours.centre, ours.scale) == pytest.approx((look.centre, look.scale), rel=0.2)
    with np.load(options.folder / "validation.npz") as mine, np.load(alone.folder / "validation.npz") as other:
        assert np.array_equal(mine["labels"], other["labels"])
        assert np.abs(mine["logits"] - other["logits"]).max() <= 0.02 * np.abs(other["logits"]).max()
    assert (options.folder / "samples.npy").read_bytes() == (alone.folder / "samples.npy").read_bytes()


@pytest.mark.slow
def test_all_stop_at_the_step_at_which_one_is_asked_to_and_any_number_goes_on(exact, tmp_path):
    alone = exact(runs=tmp_path / "alone", lr=1e-3)
    train(alone, SilentReporter())
    options = exact(runs=tmp_path / "stopped", lr=1e-3)
    results = run_together(options, 3, tmp_path, {1: Stops(2)})
    assert not any(result.finished for result in results)
    assert read(options.folder / "last.safetensors").progress.step == 2
    go_on = exact(runs=tmp_path / "stopped", resume=True)
    results = run_together(go_on, 2, tmp_path, {0: Stops(2)})
    found = read(options.folder / "last.safetensors").progress
    assert not any(result.finished for result in results) and (found.epoch, found.step) == (1, 1)
    assert train(go_on, SilentReporter()).finished
    alike(options.folder / "last.safetensors", alone.folder / "last.safetensors")


@pytest.mark.slow
def test_what_breaks_one_ends_all_and_leaves_the_last_checkpoint(exact, tmp_path):
    options = exact(runs=tmp_path / "runs")

    class Breaks(SilentReporter):
        def step(self, epoch, step, *facts):
            if step == 2:
                raise OSError("broken")

    ended = []

    def run(group):
        try:
            train(options, Breaks() if group.rank == 1 else SilentReporter(), lambda: False, group)
        except BaseException as error:
            ended.append(type(error))
            raise

    with pytest.raises(OSError, match="broken"):
        together(3, run)
    assert sorted(ended, key=str) == sorted([OSError, LostError, LostError], key=str)
    assert read(options.folder / "last.safetensors").progress.step == 0
    assert train(exact(runs=tmp_path / "runs", resume=True), SilentReporter()).finished


@pytest.mark.slow
def test_processes_that_no_longer_know_the_same_are_told(exact, tmp_path, monkeypatch):
    """As a processor that rounds otherwise would make them; the epoch before is what is gone on with."""
    options = exact(runs=tmp_path / "runs", epochs=3)

    class Drifts(SilentReporter):
        rows = 0

        def epoch(self, row):
            self.rows += 1

        def step(self, epoch, *facts):
            if epoch == 1:
                with torch.no_grad():
                    self.group.learner.model.head.bias[0] += 1e-7

    def run(group):
        reporter = Drifts() if group.rank else SilentReporter()
        reporter.group = group
        train(options, reporter, lambda: False, group)

    made = TorchTrainee.__init__

    def remember(self, config, learner, device):
        made(self, config, learner, device)
        learner.total.__self__.learner = learner  # of the thread's group

    monkeypatch.setattr(TorchTrainee, "__init__", remember)

    with pytest.raises(TrainingError, match="other parameters"):
        together(2, run)
    assert read(options.folder / "last.safetensors").progress.epoch == 1


@pytest.mark.parametrize(
    "name",
    [pytest.param("series", marks=pytest.mark.slow), pytest.param("parallel", marks=pytest.mark.slow), "finetune"],
)
def test_batch_norms_are_refused(name, small_run, tmp_path):
    with pytest.raises(TrainingError, match=f"--method {name}: its batch norms see a whole batch"):
        run_together(small_run(method=name), 2, tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_memory_budget_is_refused(small_run, tmp_path):
    with pytest.raises(TrainingError, match="--memory-budget: is measured by one process"):
        run_together(small_run(memory_budget="1GB"), 2, tmp_path)


@pytest.mark.slow
def test_a_run_in_the_way_is_seen_by_the_first_one(small_run, tmp_path):
    options = small_run(epochs=1)
    train(options, SilentReporter())
    with pytest.raises(TrainingError, match="already holds a run"):
        run_together(options, 2, tmp_path)
    (options.folder / "last.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        run_together(small_run(epochs=1, resume=True), 2, tmp_path)


# -- what a launcher says


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


def test_a_launcher_is_understood():
    assert launched({}) is None
    assert launched({"RANK": "0", "WORLD_SIZE": "2"}) is None
    assert launched(TORCHRUN) == Launch(1, 3, 1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"RANK": "3"},
        {"RANK": "-1"},
        {"WORLD_SIZE": "99999"},
        {"WORLD_SIZE": "1" * 40},
        {"LOCAL_RANK": ""},
        {"LOCAL_RANK": "2"},
        {"LOCAL_WORLD_SIZE": "4"},
        {"RANK": "one"},
        {"RANK": "¹"},
    ],
)
def test_nonsense_of_a_launcher_is_refused(changes):
    with pytest.raises(TrainingError, match="torchrun") as raised:
        launched({**TORCHRUN, **changes})
    assert "\n" not in str(raised.value)


def test_cores_are_shared_unless_the_user_says_how_many(monkeypatch):
    monkeypatch.setattr("da3.toolchain.process.launch.usable_cpus", lambda: 16)
    launch = Launch(0, 2, 0, 2)
    assert launch.threads({}) == launch.threads({"OMP_NUM_THREADS": "1"}) == launch.cores == 8
    assert launch.threads({"OMP_NUM_THREADS": "4"}) is None
    assert Launch(0, 32, 0, 32).cores == 1


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:1"),
        ("cuda", 4, "cuda:1"),
        ("cuda", 0, "sees no CUDA device"),
        ("auto", 1, "2 processes and 1 GPU on this machine"),
        ("cuda:0", 2, "each has a device"),
    ],
)
def test_every_process_has_a_device(name, gpus, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    launch = Launch(1, 2, 1, 2)
    if " " in expected:
        with pytest.raises(TrainingError, match=expected):
            device_of(launch, name)
    else:
        assert device_of(launch, name) == torch.device(expected)


def test_other_commands_are_refused(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    silenced = []
    monkeypatch.setattr(children, "_be_silent", lambda: silenced.append(True))
    children.take_part(["train", "--domain", "signs"])
    with pytest.raises(TrainingError, match="run `da3 export` without torchrun"):
        children.take_part(["export", "--domain", "signs"], aloud=True)
    assert silenced == [True]
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    children.take_part(["export"])


def test_torchrun_is_told_what_failed(monkeypatch, tmp_path):
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    with pytest.raises(SystemExit), children.recorded():
        raise SystemExit(130)
    assert not path.exists()
    with pytest.raises(TrainingError), children.recorded():
        raise TrainingError("no photos")
    assert json.loads(path.read_text())["message"]["extraInfo"]["py_callstack"] == "error: no photos"
    with pytest.raises(ZeroDivisionError), children.recorded():
        1 / 0  # noqa: B018
    assert "Traceback" in json.loads(path.read_text())["message"]["extraInfo"]["py_callstack"]


def test_a_domain_tells_how_many_began_it():
    assert ("processes", "2") in domain_info._origin({"machine": "Linux", "processes": 2, "command": "da3 train"})
