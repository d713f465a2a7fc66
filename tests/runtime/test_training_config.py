"""What a checkpoint stores of a run's configuration and progress can be read back, and stays in the words it had."""

import json

import pytest
from small_runs import CONFIG

from da3.runtime.errors import TrainingError
from da3.runtime.training.config import MemorySettings, Progress, RunConfig, slice_size


def through_json(data):
    return json.loads(json.dumps(data))


def test_a_configuration_comes_back_from_json():
    assert RunConfig.from_json(through_json(CONFIG.to_json())) == CONFIG
    assert CONFIG.to_json()["memory"] == {
        "keep_precision": "bf16",
        "backbone_precision": "fp32",
        "gradient": "exact",
        "micro_batch": 4,
    }
    assert CONFIG.to_json()["adaptor"] == {"grid": 8, "mid": 32, "first": 4}
    exits = CONFIG._replace(adaptor=CONFIG.adaptor._replace(exits=(6, 9), exit_width=128))
    assert exits.to_json()["adaptor"] == {"grid": 8, "mid": 32, "first": 4, "exits": [6, 9], "exit_width": 128}
    assert RunConfig.from_json(through_json(exits.to_json())) == exits


def test_the_words_of_format_1_are_read():
    data = through_json(CONFIG.to_json())
    data["lean"] = data.pop("memory")
    assert RunConfig.from_json(data) == CONFIG
    del data["lean"]
    assert RunConfig.from_json(data) == CONFIG._replace(memory=MemorySettings())


def test_a_configuration_that_lacks_something_is_refused():
    data = through_json(CONFIG.to_json())
    del data["seed"]
    with pytest.raises(KeyError, match="seed"):
        RunConfig.from_json(data)


def test_progress_comes_back_from_json():
    row = {"epoch": 1, "val_accuracy": 0.5}
    progress = Progress(1, 2, {"photos": 32.0}, [row], row, {"exits": [{"threshold": None, "temperature": 1.5}]})
    again = Progress.from_json(through_json(progress.to_json()))
    assert vars(again) == vars(progress)
    assert not again.finished(CONFIG) and Progress(epoch=4).finished(CONFIG)
    assert Progress().sums is not Progress().sums


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("auto", 0), ("1", 1), ("16", 16)])
def test_slice_size(given, expected):
    assert slice_size(given) == expected


@pytest.mark.parametrize("given", ["0", "-1", "four", "1.5", ""])
def test_bad_slice_size(given):
    with pytest.raises(TrainingError, match="--micro-batch"):
        slice_size(given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "3"),
        ("epochs", True),
        ("epochs", 2.0),
        ("seed", 2**63),
        ("lr", None),
        ("lr", 10**400),
        ("flip", 1),
        ("domain", ["x"]),
        ("classes", ["a", 1]),
        ("size", [32]),
    ],
)
def test_a_configuration_of_other_kinds_is_refused(name, value):
    with pytest.raises(TypeError, match=name):
        RunConfig.from_json(dict(through_json(CONFIG.to_json()), **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("grid", "8"), ("exits", ["x"]), ("exits", [True]), ("micro_batch", None), ("gradient", 1)],
)
def test_what_a_configuration_holds_is_checked_as_well(name, value):
    data = through_json(CONFIG.to_json())
    part = "memory" if name in ("micro_batch", "gradient") else "adaptor"
    with pytest.raises(TypeError, match=name):
        RunConfig.from_json(dict(data, **{part: dict(data[part], **{name: value})}))


@pytest.mark.parametrize(
    "damage",
    [
        {"epoch": "1"},
        {"step": [0]},
        {"sums": []},
        {"sums": {"loss": "x"}},
        {"history": [1]},
        {"history": [{"lr": []}]},
        {"best": {"epoch": True}},
        {"best": "x"},
        {"history": [{"seconds": 10**400}]},
    ],
)
def test_progress_of_other_kinds_is_refused(damage):
    with pytest.raises(TypeError):
        Progress.from_json(dict(Progress(1, 0, {"loss": float("nan")}, [{"epoch": 1}]).to_json(), **damage))
