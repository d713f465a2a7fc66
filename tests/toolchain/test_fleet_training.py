"""The process that trains a domain on a node: photos that lie elsewhere now, and runs that are in use."""

import shutil
from dataclasses import replace

import pytest

from da3.runtime.errors import InUseError
from da3.runtime.training import LAST, checkpoint
from da3.toolchain.bench.same_runs import different_runs
from da3.toolchain.errors import TrainingError
from da3.toolchain.fleet import training_process
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train


def test_photos_that_another_node_brought_elsewhere_are_the_same(small_run, photos, tmp_path):
    here, there = tmp_path / "one" / "0123" / "flowers", tmp_path / "two" / "0123" / "flowers"
    shutil.copytree(photos, here)
    options = small_run(data=str(here))
    straight = train(replace(options, runs=tmp_path / "lone"), SilentReporter())
    steps = iter(range(100))
    assert not train(options, SilentReporter(), lambda: next(steps) > 2).finished
    there.parent.mkdir(parents=True)
    here.rename(there)
    again = replace(options, data=str(there), resume=True)
    with pytest.raises(TrainingError, match="photos were"):
        train(again, SilentReporter())
    training_process._say_where_photos_are(options.folder / LAST, str(there))
    assert train(again, SilentReporter()).finished
    differ = different_runs(options.folder, straight.folder)
    assert {d.partition(": ")[2] for d in differ} == {"the configuration"}
    moved, lone = (checkpoint.read(folder / LAST).config for folder in (options.folder, straight.folder))
    assert moved == lone._replace(data=str(there))


def test_other_photos_are_not_taken_for_the_same(small_run, photos, tmp_path):
    steps = iter(range(100))
    options = small_run()
    train(options, SilentReporter(), lambda: next(steps) > 2)
    last = options.folder / LAST
    before = last.read_bytes()
    training_process._say_where_photos_are(last, str(tmp_path / "4567" / "flowers"))
    assert last.read_bytes() == before


def test_a_run_that_another_process_is_ending_is_waited_for(monkeypatch):
    monkeypatch.setattr(training_process, "_PAUSE_S", 0.0)
    busy = iter([True, True, False])

    def once():
        if next(busy):
            raise InUseError("in use")
        return "done"

    assert training_process._when_alone(once, lambda: False) == "done"
    monkeypatch.setattr(training_process, "_PATIENCE", 0.0)
    busy = iter([True] * 1000)
    with pytest.raises(InUseError):
        training_process._when_alone(once, lambda: False)
