"""What `learn` says: in a log a line every few seconds, quiet or talkative where it is asked to be."""

import io

import pytest
from small_runs import CONFIG

from da3.runtime.learning import TextReporter
from da3.runtime.system import duration
from da3.runtime.training import PhotoSet, Progress, pace

ROW = {"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.9, "val_accuracy": 0.8, "images_per_second": 50.0}
ROW = {**ROW, "memory_mb": 180.0, "seconds": 75.0, "lr": 4e-3}
PHOTOS = PhotoSet(("a", "b"), (("x.jpg", 0),), (("y.jpg", 1),), (("z.jpg", "z.jpg is empty"),))


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def run_of(clock, **how):
    """What is said of an epoch of 40 steps of a second each."""
    said = io.StringIO()
    reporter = TextReporter(said, **how)
    reporter.started(CONFIG, Progress(), PHOTOS, 1000)
    for step in range(1, 41):
        clock[0] += 1
        reporter.step(0, step, 40, {"photos": 16.0 * step, "loss": 8.0 * step, "correct": 12.0 * step}, 0)
    reporter.epoch(ROW)
    return said.getvalue().splitlines()


def test_a_log_has_a_line_every_few_seconds(clock):
    lines = run_of(clock)
    steps = [line for line in lines if "step " in line]
    assert [line.split(",")[1].split("  ")[0] for line in steps] == [
        " step 10/40",
        " step 20/40",
        " step 30/40",
        " step 40/40",
    ]
    assert "accuracy 75.0 %" in steps[0] and "images/s" in steps[0] and steps[0].endswith("to go")
    assert lines[0] == "skipped: z.jpg is empty" and lines[1].startswith("flowers: 1 photos to train on")


def test_quiet_says_problems_alone(clock):
    assert run_of(clock, quiet=True) == ["skipped: z.jpg is empty"]


def test_verbose_says_the_options_and_what_each_epoch_took(clock):
    lines = run_of(clock, verbose=True)
    assert "label-smoothing = 0.1" in lines and "seed = 3" in lines
    assert "75 s, learning rate 0.004 at its end" in lines[-1] and "75 s, learning" not in run_of(clock)[-1]


def test_times_have_units():
    assert [duration(s) for s in (0.4, 89, 100, 3600, 7800)] == ["0 s", "89 s", "2 min", "60 min", "2 h 10 min"]
