"""Training's random numbers: the same here, on Python 3.6 with numpy 1.13, and tomorrow."""

import json
import shutil

import numpy as np
import pytest
from small_runs import CONFIG

from da3.runtime.training.checkpoint import read, write
from da3.runtime.training.config import Progress
from da3.runtime.training.photos import find_photos
from da3.runtime.training.randomness import (
    AUGMENTATION,
    EXITS,
    INITIAL,
    ORDER,
    SAMPLES,
    SPLIT,
    STATISTICS,
    initial_down,
    stream,
)

PURPOSES = (SPLIT, ORDER, AUGMENTATION, STATISTICS, SAMPLES, INITIAL, EXITS)
# Printed once by numpy 1.13.3 on Python 3.6. They may not change: they decide what every seed learns.
NUMBERS = """
from da3.runtime.training.randomness import AUGMENTATION, EXITS, ORDER, initial_down, stream
import json

print(json.dumps([
    stream(0, ORDER, 0).permutation(10).tolist(),
    stream(2**31, ORDER, 2**40 + 7).permutation(10).tolist(),
    stream(7, AUGMENTATION, 3, 250).uniform(0.8, 1.2, 3).tolist(),
    initial_down(0, 5, 2, 3).tolist(),
    initial_down(0, 5, 1, 2, EXITS).tolist(),
]))
"""
EXPECTED = [
    [8, 0, 2, 9, 6, 5, 7, 4, 1, 3],
    [3, 4, 0, 5, 7, 2, 8, 6, 1, 9],
    [1.1600676294958565, 1.1182005937200403, 1.075202299980723],
    [
        [-1.3669356107711792, -1.0427006483078003, 0.5180795192718506],
        [-0.934006929397583, -0.9972729682922363, -0.8172959089279175],
    ],
    [[1.176234483718872, 1.3431079387664795]],
]


@pytest.fixture
def call36(call, python36):
    def run(*arguments, **kwargs):
        done = call(*arguments, python=python36, **kwargs)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_numbers_of_a_seed_stay_as_they_are(call):
    done = call("-c", NUMBERS)
    assert json.loads(done.stdout) == EXPECTED, done.stderr


def test_python_3_6_draws_the_same(call36):
    assert json.loads(call36("-c", NUMBERS)) == EXPECTED


def test_streams_differ_by_everything_that_names_them():
    names = [(seed, purpose, *rest) for seed in (0, 1) for purpose in PURPOSES for rest in ((), (0,), (1,), (0, 0))]
    names += [(0, ORDER, 2**32), (0, ORDER, 2**32 + 1), (2**32, ORDER)]
    assert len({stream(*name).random_sample() for name in names}) == len(names)
    again = stream(0, SPLIT).random_sample(4)
    assert (again == stream(0, SPLIT).random_sample(4)).all()
    with pytest.raises(ValueError, match="from 0 on, not -1"):
        stream(0, ORDER, -1)


def test_adaptors_start_from_a_variance_that_the_relu_keeps():
    down = initial_down(3, 0, 320, 64)
    assert down.dtype == np.float32 and abs(down.mean()) < 0.01
    assert down.var() == pytest.approx(2 / 64, rel=0.05)
    assert not (down == initial_down(3, 1, 320, 64)).any()


SPLITS = """
import json, sys
from da3.runtime.training.photos import find_photos

found = find_photos(sys.argv[1], 5)
print(json.dumps([found.classes, found.train, found.val]))
"""


def test_python_3_6_splits_the_same(call36, photos, tmp_path):
    root = shutil.copytree(photos / "train", tmp_path / "all")
    found = find_photos(root, 5)
    expected = json.loads(json.dumps([found.classes, found.train, found.val]))
    assert json.loads(call36("-c", SPLITS, root)) == expected


CHECKPOINTS = """
import sys
from da3.runtime.training.checkpoint import read, write

found = read(sys.argv[1])
write(sys.argv[2], found.config, found.progress, found.model, found.optimizer)
"""


def test_python_3_6_reads_and_writes_checkpoints(call36, tmp_path):
    model = {"head.weight": initial_down(0, 0, 3, 4), "seen": np.array([2**40])}
    progress = Progress(epoch=1, step=2, sums={"photos": 16.0}, history=[{"epoch": 1}])
    write(tmp_path / "a", CONFIG, progress, model, {"0.step": np.float32(7).reshape(())})
    call36("-c", CHECKPOINTS, tmp_path / "a", tmp_path / "b")
    before, after = read(tmp_path / "a"), read(tmp_path / "b")
    assert after.config == CONFIG and vars(after.progress) == vars(progress)
    for a, b in ((before.model, after.model), (before.optimizer, after.optimizer)):
        assert a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)
