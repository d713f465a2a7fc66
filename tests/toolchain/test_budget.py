"""The memory budget of ``da3 train``: which settings are tried, in which order, and what is said about them."""

import json

import numpy as np
import pytest
from PIL import Image

from da3.runtime.training import PhotoSet, ShortRun
from da3.runtime.training.config import AdaptorSpec, MemorySettings, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.training import budget
from da3.toolchain.training.budget import choices, fit
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train
from da3.toolchain.training.trial import Trial


def config(name="da3"):
    settings = MemorySettings(keep_precision="bf16")
    return RunConfig(
        "d", "data", name, "resnet50", "", ("a", "b"), 64, 1, 8, 1e-3, 1.0, 0, True, 0.1, AdaptorSpec(), settings
    )


def fitted(bytes_, monkeypatch, peaks, reporter=None):
    """``fit`` where a trial of each choice in turn takes one of ``peaks``."""
    left = iter(peaks)
    monkeypatch.setattr(Trial, "measured", lambda trial: int(next(left)))
    trial = Trial(ShortRun(config(), PhotoSet(("a", "b"), (), ()), 1), "w", "cpu")
    return fit(config(), trial, budget=bytes_, fixed=frozenset(), reporter=reporter or SilentReporter())


def test_choices_are_cumulative_and_respect_what_the_user_fixed():
    found = dict(choices(config(), frozenset()))
    assert list(found) == [
        "as it is",
        "one photo a slice",
        "one photo a slice, pooled inputs kept in int8",
        "one photo a slice, pooled inputs kept in int8, a backbone in bf16",
        "one photo a slice, pooled inputs kept in int8, a backbone in bf16, adaptors on a grid of 4 x 4",
    ]
    finer = [name for name, _ in choices(config()._replace(adaptor=AdaptorSpec(grid=16)), frozenset())]
    assert [name.split(", ")[3:] for name in finer[4:]] == [[f"adaptors on a grid of {n} x {n}"] for n in (8, 4)]
    last = list(found.values())[-1]
    assert last.memory == MemorySettings("int8", "bf16", "exact", 1) and last.adaptor.grid == 4
    fixed = list(choices(config(), frozenset({"micro_batch", "backbone_precision"})))
    assert all(c.memory.micro_batch == 0 and c.memory.backbone_precision == "fp32" for _, c in fixed)
    one = [name for name, _ in choices(config(), frozenset({"micro_batch"}))]
    assert one[1:3] == ["pooled inputs kept in int8", "pooled inputs kept in int8, a backbone in bf16"]
    assert [name for name, _ in choices(config("finetune"), frozenset())] == ["as it is"]
    assert [name for name, _ in choices(config("linear"), frozenset())][1:] == [
        "one photo a slice",
        "one photo a slice, a backbone in bf16",
    ]


def test_the_first_choice_that_fits_is_taken_and_explained(monkeypatch):
    notes = []
    reporter = SilentReporter()
    reporter.note = notes.append
    chosen = fitted(200_000_000, monkeypatch, [300e6, 190.4e6, 150e6], reporter)
    assert chosen == config()._replace(memory=MemorySettings("bf16", "fp32", "exact", 1))
    assert "memory budget 200 MB for the whole process" in notes[0] and "resnet50 at 64 px, batches of 8" in notes[0]
    assert notes[1].split() == ["as", "it", "is:", "315", "MB"]  # with the margin of a longer run
    assert "one photo a slice: 200 MB, which fits" in notes[2] and "--micro-batch 1" in notes[3]


def test_the_margin_counts(monkeypatch):
    assert fitted(200_000_000, monkeypatch, [199e6, 191e6, 150e6]).memory.keep_precision == "int8"


def test_a_budget_too_small_names_the_smallest_that_works(monkeypatch):
    with pytest.raises(TrainingError, match="100 MB is too small .* smallest that works is 147 MB") as raised:
        fitted(100_000_000, monkeypatch, [300e6, 190e6, 150e6, 140e6, 145e6])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("device", "said"), [("cpu", True), ("cuda:0", False)])
def test_a_machine_with_less_than_the_budget_is_named(monkeypatch, device, said):
    monkeypatch.setattr(budget, "available_bytes", lambda: 90_000_000)
    assert ("only 90 MB" in budget._available(100_000_000, device)) == said
    assert budget._available(80_000_000, device) == ""


def test_a_trial_is_short_and_takes_the_largest_photos_that_can_be_read(tmp_path):
    rng = np.random.default_rng(0)
    photos = []
    for side in (8, 64, 32, 16):
        path = tmp_path / f"{side}.png"
        Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(path)
        photos.append((str(path), side % 3))
    (tmp_path / "broken.png").write_bytes(bytes(100_000))
    photos.append((str(tmp_path / "broken.png"), 0))
    short = ShortRun.of(config()._replace(batch_size=1, epochs=9), PhotoSet(("a", "b"), photos, photos), 1)
    assert [path.split("/")[-1] for path, _ in short.photos.train] == ["64.png", "32.png", "16.png"]
    assert [path.split("/")[-1] for path, _ in short.photos.val] == ["64.png"]
    assert short.config.epochs == 1
    trial = Trial(short, "w", "cpu")
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial


@pytest.mark.slow
def test_a_budget_is_measured_for_real(small_run, monkeypatch):
    notes = []
    reporter = SilentReporter()
    reporter.note = notes.append
    result = train(small_run(memory_budget="1GB"), reporter)
    assert result.finished and "as it is:" in notes[1] and "which fits" in notes[1]
    measured = float(notes[1].split(":")[1].split()[0]) * 1e6
    assert 100e6 < measured < 900e6  # Python and PyTorch are in it
    assert result.budget == 1_000_000_000 and result.peak > 100e6
    monkeypatch.setattr(Trial, "measured", lambda trial: 5_000_000)
    with pytest.raises(TrainingError, match="1 MB is too small"):
        train(small_run("other", memory_budget="1MB", method="finetune"), SilentReporter())
    assert not (result.folder.parent / "other").exists()
