"""Whether a block runs, what that saves, and a plan walked step by step: against the engine and the numpy reference."""

import numpy as np
import pytest
import torch
from synthetic_bundle import Backbone, images, write_domain

from da3.runtime import Bundle, DomainError, Runtime
from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle.bundle import read_domain
from da3.runtime.records import Block, Step
from da3.runtime.schedule.decisions import check_overrides, closed_blocks, forced, opens, threshold
from da3.runtime.schedule.flops import flops_share, reached_blocks, saved_shares
from da3.runtime.schedule.walk import inputs_of, walk

BLOCKS = (Block("stem", 100, None), Block("gated", 200, 20), Block("bare", 300, 0))


def test_a_gate_opens_above_its_threshold():
    assert opens(0.5, 0.25) is True and opens(0.25, 0.25) is False
    logits = [0.5, 0.25, -1.0, float("nan"), float("inf"), float("-inf")]
    expected = [True, False, False, False, True, False]
    assert opens(np.array(logits, np.float32), 0.25).tolist() == expected
    assert opens(torch.tensor(logits), 0.25).tolist() == expected


def test_one_logit_and_a_batch_decide_alike():
    """0.1 is not a float32: as a float64 it would be below the float32 that it rounds to."""
    theta, logits = threshold(0.1), np.array([0.1], np.float32)
    assert float(np.float32(0.1)) > 0.1
    assert not opens(logits[0], theta) and not opens(logits, theta).any()
    assert not opens(float(logits[0]), theta)


@pytest.mark.parametrize(
    ("closed", "overrides", "gated", "expected"),
    [
        ((), {}, (), ()),
        ((1, 3), {}, (), (1, 3)),
        ((1, 3), {3: True, 4: True}, (), (1,)),
        ((1,), {2: False, 3: True}, (), (1, 2)),
        ((1,), {1: False, 2: False}, (2, 4), (1,)),  # a gate is asked, and told so
    ],
)
def test_which_blocks_are_closed(closed, overrides, gated, expected):
    assert closed_blocks(closed, overrides, gated) == set(expected)


@pytest.mark.parametrize(
    ("gate", "block", "gated", "overrides", "expected"),
    [
        (None, None, True, {}, True),  # a step that is no block
        (None, 0, True, {}, True),  # a block that has no gate
        ("g1", 1, True, {}, None),
        ("g1", 1, False, {}, True),  # the domain's gates were not trained
        ("g1", 1, True, {1: False}, False),
        ("g1", 1, True, {1: True}, True),
        ("g1", 1, False, {1: False}, False),
        ("g1", 1, True, {2: False}, None),
    ],
)
def test_which_gates_are_asked(gate, block, gated, overrides, expected):
    assert forced(gate, block, gated, overrides) is expected


def test_overrides_that_cannot_be():
    check_overrides({0: True, 1: False, 2: True}, 3, {1, 2})
    for overrides, gateable, message in (
        ({0: False}, {2, 1}, "block 0 cannot be skipped; gateable blocks: 1, 2"),
        ({3: True}, {1}, "block 3 cannot be skipped"),
        ({-1: True}, {1}, "block -1 cannot be skipped"),
        ({0: False}, set(), "gateable blocks: none"),
    ):
        with pytest.raises(DomainError, match=message):
            check_overrides(overrides, 3, gateable)


def test_a_block_without_a_gate_that_did_not_run_costs_nothing():
    ran = np.array([[True, True, True], [False, True, True], [True, False, True], [False, False, False]])
    np.testing.assert_allclose(flops_share(BLOCKS, ran), [1, 500 / 600, 420 / 600, 20 / 600])
    assert flops_share(BLOCKS, ran)[0] == 1.0
    np.testing.assert_allclose(saved_shares(BLOCKS), [100 / 600, 180 / 600, 300 / 600])
    np.testing.assert_allclose(1 - ~ran @ saved_shares(BLOCKS), flops_share(BLOCKS, ran))


def test_what_a_picture_has_not_come_by_costs_nothing():
    plan = (
        Step("stem", ("image",), ("x",)),
        Step("a", ("x",), ("y",), block=1),
        Step("exit", ("y",), ("first",), exit=True),
        Step("b", ("y",), ("z",), block=2, skip="s", skip_inputs=("y",)),
        Step("exit", ("z",), ("second",), exit=True),
        Step("head", ("z",), ("logits",)),
    )
    reached = reached_blocks(plan, 3)
    assert reached.tolist() == [[True, True, False], [True, True, True], [True, True, True]]
    ran = np.array([[True, True, False]] * 3)
    np.testing.assert_allclose(flops_share((*BLOCKS[:2], Block("c", 300, 30)), ran, reached), [0.5, 0.55, 0.55])
    assert reached_blocks(plan[:2], 3).tolist() == [[True] * 3]


def test_blocks_without_flops():
    blocks = (Block("a", 0, None), Block("b", 0, 0))
    assert saved_shares(blocks).tolist() == [0, 0] and saved_shares(()).tolist() == []
    assert flops_share(blocks, np.zeros((3, 2), bool)).tolist() == [1, 1, 1]


class Files:
    """Runs a bundle's steps, each file a session of its own, and notes (segment, images) of every call."""

    def __init__(self, bundle):
        self.segments = bundle.manifest.segments
        self.sessions = {s.file: open_session(bundle.read(s.file)) for s in self.segments.values()}
        self.calls = []

    def __call__(self, step, inputs):
        segment = self.segments[step.segment]
        self.calls.append((step.segment, len(inputs[0])))
        given = {value.name: array for value, array in zip(segment.inputs, inputs, strict=True)}
        return self.sessions[segment.file].run([value.name for value in segment.outputs], given)


def walked(bundle, name, x, overrides=None):
    """(logits, which blocks ran, every value that was written, calls) of a walk."""
    run_step, values = Files(bundle), {}
    ran = np.ones((len(x), len(bundle.manifest.blocks)), bool)
    for visit in walk(bundle.manifest, read_domain(bundle, name), x, run_step, overrides):
        assert set(visit.read) == {n for n in visit.step.inputs if not n.startswith("domain:")}
        assert tuple(visit.written) == visit.step.outputs
        values.update(visit.written)
        if visit.step.block is not None:
            ran[:, visit.step.block] = visit.ran
    return values["logits"], ran, values, run_step.calls


@pytest.mark.parametrize("count", [1, 16])
@pytest.mark.parametrize("gates", [None, {1: False}, {1: True, 2: False}, {0: True, 1: True, 2: True}])
def test_a_walk_is_what_the_engine_runs(built, runtime, weights, count, gates):
    x = images(16)[:count]
    with Bundle(built[0]) as bundle:
        logits, ran, values, calls = walked(bundle, "flowers", x, gates)
    result, traced = runtime.trace(x, ["x1", "a1", "g1", "x2", "g2", "features"], "flowers", gates=gates)
    expected, expected_ran = Backbone().reference(x, weights["flowers"], gates=gates)
    assert (ran == result.blocks).all() and (ran == expected_ran).all()
    np.testing.assert_allclose(logits, result.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    for name, value in traced.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4, atol=1e-4)
    # A block runs on the images that need it, and what is done in its place on the others.
    for block, skip in ((1, "skip"), (2, "shifted")):
        done = {name: size for name, size in calls if name in (f"block_{block}", skip)}
        opened = int(ran[:, block].sum())
        assert done == {n: size for n, size in ((f"block_{block}", opened), (skip, count - opened)) if size}
    if count == 16 and gates is None:
        assert all(0 < ran[:, block].sum() < count for block in (1, 2)), "gates must disagree for this to test anything"


def test_a_walk_of_a_domain_without_gates(bundle, weights):
    write_domain(bundle / "domains" / "plain", "plain", weights["flowers"], gated=False)
    with Bundle(bundle) as opened, Runtime(bundle) as runtime:
        for gates in (None, {2: False}):
            logits, ran, _, _ = walked(opened, "plain", images(4), gates)
            result = runtime.run_batch(images(4), "plain", gates=gates)
            assert (ran == result.blocks).all() and ran[:, 1].all()
            np.testing.assert_allclose(logits, result.logits, rtol=1e-4, atol=1e-4)
        with pytest.raises(DomainError, match="block 0 cannot be skipped; gateable blocks: 1, 2"):
            walked(opened, "plain", images(1), {0: False})


def test_what_a_step_reads(built):
    with Bundle(built[0]) as bundle:
        domain = read_domain(bundle, "flowers")
        step = next(step for step in bundle.manifest.plan if step.block == 2)
    values = {"x2": np.zeros(1), "a2": np.ones(1)}
    assert inputs_of(step, values, domain) == [values["x2"], values["a2"]]
    inputs = inputs_of(step.skipped, values, domain)
    assert inputs[:2] == [values["x2"], values["a2"]] and inputs[2] is domain.weights["substitutes.2.shift"]
