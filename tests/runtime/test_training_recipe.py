"""The recipe's formulas at the points where their values are known."""

import pytest

from da3.runtime.training.recipe import batch_size, closing_share, ramp, rank, schedule


def test_schedule():
    assert schedule(0.0, 0.2) == pytest.approx(0.04)
    assert schedule(0.1, 0.2) == pytest.approx(0.52)
    assert schedule(0.2, 0.2) == pytest.approx(1.0)
    assert schedule(0.6, 0.2) == pytest.approx(0.5)
    assert schedule(1.0, 0.2) == pytest.approx(0.0, abs=1e-9)
    values = [schedule(i / 100, 0.1) for i in range(10, 101)]
    assert values == sorted(values, reverse=True)


def test_ramp():
    assert [ramp(progress, 0.2, 0.6) for progress in (0.0, 0.2, 0.6, 1.0)] == [0, 0, 1, 1]
    assert ramp(0.3, 0.2, 0.6) == pytest.approx(0.25)


def test_closed_blocks_leave_something_to_the_exits():
    shares = [closing_share(keep) for keep in (0.0, 0.4, 0.5, 0.54, 0.55, 0.8, 1.0)]
    assert shares == pytest.approx([0.3, 0.7, 0.8, 0.84, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(("photos", "batch"), [(1, 8), (10, 8), (100, 12), (300, 16), (10_000, 16)])
def test_few_photos_get_small_batches(photos, batch):
    assert batch_size(photos) == batch


def test_the_best_epoch_is_the_most_accurate_and_then_the_surest():
    rows = [
        {"epoch": 1, "val_accuracy": 0.8, "val_loss": 0.1},
        {"epoch": 2, "val_accuracy": 0.9, "val_loss": 0.6},
        {"epoch": 3, "val_accuracy": 0.9, "val_loss": 0.5},
    ]
    assert max(rows, key=rank)["epoch"] == 3
