"""Format 2 of bundles: exits, closed blocks, and domains of format 1 beside them."""

import json

import numpy as np
import pytest
from synthetic_bundle import (
    ADAPTOR,
    EXIT_ADAPTOR,
    SHIFT,
    read_manifest,
    write_domain,
    write_exits_domain,
    write_manifest,
)
from test_bundle import put, step
from test_packs import snapshot

from da3.runtime import Bundle, BundleError, DomainError
from da3.runtime.bundle.bundle import read_domain
from da3.runtime.bundle.packs import add_pack, update_domain, write_pack
from da3.runtime.bundle.plan import closable, exit_steps, exit_tensors, skip_tensors
from da3.runtime.records import ExitRule

EXIT_TENSORS = {f"exits.{i}.{t}" for i in (0, 1) for t in ("down", "down_bias", "weight", "bias")}


def described(bundle, name):
    return json.loads((bundle / "domains" / name / "domain.json").read_text())


def test_what_a_plan_tells(built, built_with_exits):
    with Bundle(built_with_exits[0]) as bundle:
        plan = bundle.manifest.plan
    assert [s.outputs for s in exit_steps(plan)] == [("logits0",), ("logits1",)] and closable(plan) == {1, 2}
    assert exit_tensors(plan) == EXIT_TENSORS
    assert skip_tensors(plan) == {SHIFT} and skip_tensors(plan, (1,)) == {SHIFT} and skip_tensors(plan, (2,)) == set()
    with Bundle(built[0]) as bundle:
        plan = bundle.manifest.plan
    assert exit_steps(plan) == [] and exit_tensors(plan) == set() and closable(plan) == {1, 2}


WRONG = {
    "exit in format 1": (lambda m: put(m, "format", 1), "format 1 has no exits"),
    "exit text": (lambda m: put(step(m, "classifier"), "exit", "yes"), "exit must be true or false"),
    "exit of features": (lambda m: put(step(m, "exit"), "exit", True), r"exit e0 must have the shape of 'logits'"),
    "exit at the end": (lambda m: put(step(m, "head_carry"), "exit", True), "another name"),
    "exit of a block": (lambda m: step(m, "classifier").update(block=0), "block 0 is run by an earlier step"),
    "exit of no block": (lambda m: put(step(m, "block_0"), "exit", True), "has one output and runs no block"),
    "no block": (lambda m: step(m, "block_1").pop("block"), "needs all of gate, skip and block"),
    "gate": (lambda m: step(m, "block_1").update(gate="x0"), r"gate x0 must be an earlier value of shape"),
    "unskippable": (lambda m: put(m, "blocks", 1, "skip_flops", None), "can be skipped, but skip_flops of block 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_plan_that_contradicts_itself(exits_bundle, name):
    change, message = WRONG[name]
    content = read_manifest(exits_bundle)
    change(content)
    write_manifest(exits_bundle, content)
    with pytest.raises(BundleError, match=message):
        Bundle(exits_bundle)


def test_a_plan_has_gates_or_exits(bundle):
    content = read_manifest(bundle)
    head = step(content, "head")
    content["plan"].append(dict(head, outputs=["early"], exit=True))
    write_manifest(bundle, dict(content, format=2))
    with pytest.raises(BundleError, match="gates or exits, not both"):
        Bundle(bundle)


DOMAINS = {
    "threshold": ({"exits": [{"threshold": 1.5, "temperature": 1}] * 2}, "threshold is from 0 to 1, not 1.5"),
    "temperature": ({"exits": [{"threshold": 0.5, "temperature": 0}] * 2}, "temperature is from 0.001 to 1000, not 0"),
    "last temperature": ({"temperature": -1}, "temperature is from 0.001 to 1000, not -1"),
    "text": ({"exits": [{"threshold": "high", "temperature": 1}] * 2}, "threshold must be a number"),
    "no temperature": ({"exits": [{"threshold": None}] * 2}, "temperature is missing"),
    "one rule": ({"exits": [{"threshold": 0.5, "temperature": 1}]}, "has rules for 1 exits, and 2 exits"),
    "block 0": ({"closed": [0]}, r"closes block 0; blocks of this bundle that can be closed: 1, 2"),
    "order": ({"closed": [2, 1]}, "different block numbers, ascending"),
    "float": ({"closed": [1.0]}, "different block numbers, ascending"),
    "adaptor": ({"adaptor": dict(EXIT_ADAPTOR, exits=[1])}, r"another adaptor than this bundle \(exits \[1\], here"),
    "half an adaptor": ({"adaptor": dict(ADAPTOR, exit_width=6)}, "another adaptor than this bundle"),
    "no exits": ({"adaptor": ADAPTOR}, "has rules for 2 exits, and 0 exits"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_that_does_not_fit(exits_bundle, built_with_exits, name):
    changes, message = DOMAINS[name]
    write_exits_domain(exits_bundle / "domains" / "odd", "odd", built_with_exits[1]["flowers"], **changes)
    with Bundle(exits_bundle) as bundle, pytest.raises((DomainError, BundleError), match=message):
        read_domain(bundle, "odd")


def test_what_a_domain_may_lack(exits_bundle, built_with_exits):
    """What stands in for blocks that it does not close; its exits, if its adaptor has none."""
    weights = built_with_exits[1]["flowers"]
    short = {k: v for k, v in weights.items() if k != SHIFT}
    write_exits_domain(exits_bundle / "domains" / "one", "one", short, closed=[1])
    write_exits_domain(exits_bundle / "domains" / "two", "two", short, closed=[2])
    bare = {k: v for k, v in weights.items() if k not in EXIT_TENSORS}
    write_exits_domain(exits_bundle / "domains" / "bare", "bare", bare, adaptor=ADAPTOR, exits=[])
    write_exits_domain(exits_bundle / "domains" / "less", "less", bare)
    with Bundle(exits_bundle) as bundle:
        assert read_domain(bundle, "one").closed == (1,)
        for name, message in (("two", f"two lacks the tensor {SHIFT}"), ("less", "less lacks the tensor exits.0.bias")):
            with pytest.raises(DomainError, match=message):
                read_domain(bundle, name)
        domain = read_domain(bundle, "bare")
    assert domain.exits == () and domain.weights["exits.1.weight"].shape == (6, 3)
    assert not any(domain.weights[name].any() for name in EXIT_TENSORS)


@pytest.mark.parametrize("gated", [False, True])
def test_a_pack_of_format_1_in_a_bundle_of_format_2(exits_bundle, built_with_exits, tmp_path, gated):
    bare = {k: v for k, v in built_with_exits[1]["flowers"].items() if k not in EXIT_TENSORS}
    pack = write_domain(tmp_path / "old", "old", bare, gated=gated)
    domain = add_pack(exits_bundle, pack)
    assert (domain.exits, domain.closed, domain.gated) == ((), (), gated)
    assert set(domain.weights) >= EXIT_TENSORS
    assert described(exits_bundle, "old")["format"] == 1
    with Bundle(exits_bundle) as bundle:
        bundle.verify()


def test_update(exits_bundle):
    before = snapshot(exits_bundle)
    rules = [ExitRule(0.75, 1.5), ExitRule(None, 1.0)]
    domain = update_domain(
        exits_bundle,
        "flowers",
        exits=rules,
        closed=[2, 1],
        temperature=1.25,
        calibration={"goal": "max-drop 0.5"},
        metrics={"flops_share": 0.75},
    )
    assert (domain.exits, domain.closed, domain.temperature) == (tuple(rules), (1, 2), 1.25)
    assert domain.calibration == {"goal": "max-drop 0.5"}
    assert domain.metrics == {"val_accuracy": 0.5, "flops_share": 0.75}
    after = snapshot(exits_bundle)
    assert [k.as_posix() for k in after if after[k] != before[k]] == ["domains/flowers/domain.json"]
    content = described(exits_bundle, "flowers")
    assert content["exits"] == [{"threshold": 0.75, "temperature": 1.5}, {"threshold": None, "temperature": 1.0}]
    domain = update_domain(exits_bundle, "flowers", closed=[])
    assert (domain.exits, domain.closed, domain.temperature) == (tuple(rules), (), 1.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exits": [ExitRule(0.5)]}, "rules for 1 exits"),
        ({"exits": [ExitRule(2.0), ExitRule(0.5)]}, "from 0 to 1"),
        ({"closed": [0]}, "closes block 0"),
        ({"closed": [1], "calibration": {"drop": float("nan")}}, "must hold finite numbers"),
        ({"temperature": float("nan")}, "temperature is from"),
        ({"theta": 0.5}, "has no gates, and so no theta"),
    ],
)
def test_an_update_that_cannot_be(exits_bundle, change, message):
    before = snapshot(exits_bundle)
    with pytest.raises(DomainError, match=message):
        update_domain(exits_bundle, "flowers", **change)
    assert snapshot(exits_bundle) == before


def test_updating_a_domain_of_format_1(bundle, weights):
    with pytest.raises(DomainError, match="domain flowers has gates of format 1"):
        update_domain(bundle, "flowers", closed=[1])
    write_domain(bundle / "domains" / "plain", "plain", weights["flowers"], gated=False)
    domain = update_domain(bundle, "plain", closed=[1], temperature=2.0)
    assert domain.closed == (1,) and domain.temperature == 2.0
    content = described(bundle, "plain")
    assert content["format"] == 2 and "theta" not in content and "gated" not in content


def test_packs_carry_it_on(exits_bundle, tmp_path):
    update_domain(exits_bundle, "signs", exits=[ExitRule(0.5), ExitRule(0.75)], closed=[2])
    pack = write_pack(exits_bundle, "signs", tmp_path)
    domain = add_pack(exits_bundle, pack, replace=True)
    assert domain.exits == (ExitRule(0.5), ExitRule(0.75)) and domain.closed == (2,)
    np.testing.assert_array_equal(domain.weights["exits.0.bias"], domain.weights["exits.0.bias"])
