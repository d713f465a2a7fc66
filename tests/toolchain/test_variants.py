"""Methods with options: read as written, refused in one line that says what is known."""

import pytest

from da3.runtime.training.config import MemorySettings
from da3.toolchain.bench.variants import check_shared, parse
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import METHODS


def test_options_follow_their_method():
    found = parse(["finetune, da3:keep=0.6,gradient=skip-path,linear", "da3:micro_batch=2"])
    assert [v.label for v in found] == ["finetune", "da3:keep=0.6,gradient=skip-path", "linear", "da3:micro-batch=2"]
    assert [v.method for v in found] == ["finetune", "da3", "linear", "da3"]
    assert (found[1].flops_budget, found[1].memory) == (0.6, MemorySettings(gradient="skip-path"))
    assert found[3].memory == MemorySettings(micro_batch=2)
    assert found[1].folder == "da3-gradient-skip-path"


def test_nothing_named_is_every_method():
    assert [v.label for v in parse([])] == list(METHODS)
    assert all(v.flops_budget == 1 and v.memory == MemorySettings() for v in parse([]))


def test_one_network_serves_every_share_that_closes_no_block():
    words = ["da3,da3:keep=1,da3:keep=0.9,da3:keep=0.55,da3:keep=0.54,da3:keep=0.5,lr=4e-3,da3:keep=0.5,lr=1e-3"]
    found = parse(words, learning_rates=True)
    assert [v.network for v in found] == ["da3"] * 4 + ["da3:keep=0.54", "da3:keep=0.5", "da3:keep=0.5,lr=0.001"]
    assert [v.trained_budget for v in found] == [1.0] * 4 + [0.54, 0.5, 0.5]
    assert [v.flops_budget for v in found] == [1.0, 1.0, 0.9, 0.55, 0.54, 0.5, 0.5]
    assert found[-1].folder == "da3-keep-0.5-lr-0.001"


def test_several_learning_rates_are_one_choice():
    found = parse(["linear,finetune:lr=1e-4/ 3e-4 /1e-3"], learning_rates=True)
    assert [v.label for v in found] == ["linear", "finetune:lr=1e-4", "finetune:lr=3e-4", "finetune:lr=1e-3"]
    assert [v.learning_rate for v in found] == [None, 1e-4, 3e-4, 1e-3]
    assert [v.network for v in found] == ["linear", "finetune:lr=0.0001", "finetune", "finetune:lr=0.001"]
    assert [v.choice for v in found] == [None] + ["finetune:lr=1e-4/ 3e-4 /1e-3"] * 3
    (one,) = parse(["finetune:lr=1e-4"], learning_rates=True)
    assert one.choice is None and one.folder == "finetune-lr-0.0001"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("finetune:lr=0", "above 0 and below 10"),
        ("finetune:lr=1e-4/", "above 0 and below 10"),
        ("finetune:lr=nan", "above 0 and below 10"),
        ("finetune:lr=1e-4/1e-4", "names finetune:lr=1e-4 twice"),
        ("series:rate=1", "it takes lr"),
    ],
)
def test_learning_rates_that_make_no_sense(words, message):
    with pytest.raises(TrainingError, match=message):
        parse([words], learning_rates=True)
    with pytest.raises(TrainingError, match="takes no options"):
        parse(["series:lr=1e-4"])


def test_shared_options_go_where_they_mean_something_and_yield():
    shared = {"keep": 0.5, "micro-batch": 1, "gradient": None}
    finetune, linear, da3, own = parse(["finetune,linear,da3,da3:keep=0.9"], shared)
    (shorter,) = parse(["finetune:backbone-precision=bf16"], shared)
    assert shorter.memory == MemorySettings(backbone_precision="bf16")
    assert (finetune.flops_budget, finetune.memory) == (1.0, MemorySettings())
    assert (linear.flops_budget, linear.memory) == (1.0, MemorySettings(micro_batch=1))
    assert (da3.flops_budget, da3.memory) == (0.5, MemorySettings(micro_batch=1))
    assert (own.flops_budget, own.memory) == (0.9, MemorySettings(micro_batch=1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bogus"], "known are: da3"),
        (["da3:kep=0.6"], "it takes keep, micro-batch"),
        (["finetune:keep=0.6"], "it takes backbone-precision"),
        (["series:keep=0.6"], "it takes no options"),
        (["linear:keep=0.6"], "it takes micro-batch"),
        (["da3:keep=two"], "keep must be a number from 0 to 1"),
        (["da3:keep=nan"], "keep must be a number"),
        (["da3:keep"], "keep must be a number"),
        (["da3:micro-batch=-1"], "whole number"),
        (["da3:gradient=none"], "exact or skip-path"),
        (["da3:keep=0.5,keep=0.6"], "given twice"),
        (["da3:"], "has no option ''"),
        (["keep=0.6"], "da3:keep=0.6"),
        (["da3,keep=0.6"], "needs a method before it"),
        (["da3,,linear"], "comma between"),
        ([""], "comma between"),
        (["da3,linear", "da3"], "names da3 twice"),
    ],
)
def test_what_makes_no_sense_is_one_line(words, message):
    with pytest.raises(TrainingError) as raised:
        parse(words)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_shared_values_are_checked():
    check_shared({"keep": 0.5, "gradient": None, "micro-batch": 0})
    with pytest.raises(TrainingError, match="--keep-precision fp8: must be fp32 or bf16 or int8"):
        check_shared({"keep-precision": "fp8"})
