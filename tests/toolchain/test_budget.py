"""The memory budget of ``da3 train``: which settings are tried, in which order, and what is said about them."""

import pytest

from da3.runtime.training.config import AdaptorSpec, MemorySettings, RunConfig
from da3.toolchain.errors import TrainingError
from da3.toolchain.training import budget
from da3.toolchain.training.budget import choices, fit
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train


def config(name="da3"):
    settings = MemorySettings(keep_precision="bf16")
    return RunConfig(
        "d", "data", name, "resnet50", "", ("a", "b"), 64, 1, 8, 1e-3, 1.0, 0, True, 0.1, AdaptorSpec(), settings
    )


def fitted(bytes_, reporter=None):
    reporter = reporter or SilentReporter()
    return fit(config(), weights="w", device="cpu", budget=bytes_, fixed=frozenset(), reporter=reporter)


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
    peaks = iter([300e6, 190e6, 150e6])
    monkeypatch.setattr(budget, "_measure", lambda *facts: (int(next(peaks)), 100_000_000))
    reporter, notes = SilentReporter(), []
    reporter.note = notes.append
    chosen = fitted(200_000_000, reporter)
    assert chosen == config()._replace(memory=MemorySettings("bf16", "fp32", "exact", 1))
    assert "one photo a slice: 190 MB, which fits" in notes[2] and "about 290 MB" in notes[3]


def test_a_budget_too_small_names_the_smallest_that_works(monkeypatch):
    peaks = iter([300e6, 190e6, 150e6, 140e6, 145e6])
    monkeypatch.setattr(budget, "_measure", lambda *facts: (int(next(peaks)), 0))
    with pytest.raises(TrainingError, match="100 MB is too small .* smallest that works is about 143 MB"):
        fitted(100_000_000)


def test_a_budget_is_measured_for_real(small_run, monkeypatch):
    notes = []
    reporter = SilentReporter()
    reporter.note = notes.append
    result = train(small_run(memory_budget="1GB"), reporter)
    assert result.finished and "as it is:" in notes[1] and "which fits" in notes[1]
    monkeypatch.setattr(budget, "_measure", lambda *facts: budget.Peak(5_000_000, 0))
    with pytest.raises(TrainingError, match="1 MB is too small"):
        train(small_run("other", memory_budget="1MB", method="finetune"), SilentReporter())
    assert not (result.folder.parent / "other").exists()
