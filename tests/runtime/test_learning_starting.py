"""A domain as bundles have it, taken up again: the same function of a photo, whatever it is normalised by."""

import numpy as np
import pytest
from test_learning_parts import CLASSES, SEED, pair  # noqa: F401 (a fixture)

from da3.runtime.errors import CheckpointError
from da3.runtime.learning.answering import undecided
from da3.runtime.learning.parameters import Parameters
from da3.runtime.learning.starting import find_start, of_domain, unfolded


@pytest.fixture
def domain(pair):  # noqa: F811
    """A domain of random numbers that closes blocks, and a fresh state with other statistics than it was made with."""
    _, ours, manifest, _ = pair
    made = undecided(manifest, "noise", tuple("abc"), ours.fold(), ours.closed)
    other = Parameters(manifest, CLASSES, SEED + 1, may_close=True)
    rng = np.random.RandomState(1)
    for part in other.parts:
        for name, array in part.statistics.items():
            drawn = rng.standard_normal(array.shape).astype(np.float32)
            part.statistics[name] = np.abs(drawn) + np.float32(0.5) if name != "mean" else drawn
    return made, other


def test_the_same_tensors_with_other_statistics(domain):
    made, other = domain
    measured = {name: array.copy() for name, array in other.state().items() if name.endswith(("mean", "std", "scale"))}
    other.load({**other.state(), **unfolded(made, other.state())}, "noise")
    assert all(np.array_equal(other.state()[name], array) for name, array in measured.items() if "head" not in name)
    assert other.closed == made.closed and len(made.closed) > 1
    again, compared = other.fold(), 0
    for name, array in made.weights.items():
        if name.split(".")[0] == "substitutes" and name.endswith(("down_bias", "up_bias")):
            continue  # below: there is no bias before a bypass's second map
        if name.endswith((".mean", ".bias")) and not name.endswith("down_bias"):
            continue  # below: a head's features lose another mean
        np.testing.assert_allclose(again[name], array, rtol=2e-4, atol=2e-4, err_msg=name)
        compared += 1
    assert compared > 20
    for block in made.closed:
        place = f"substitutes.{block}."
        if place + "up" in made.weights:
            had, has = (w[place + "up_bias"] + w[place + "up"] @ w[place + "down_bias"] for w in (made.weights, again))
            np.testing.assert_allclose(has, had, rtol=1e-3, atol=1e-3, err_msg=place)
    for place in ("head.", *(f"exits.{i}." for i in other.exits)):
        had, has = (
            w[place + "bias"] - w[place + "weight"] @ w[place + "mean"] for w in (made.weights, again)
        )  # the answer to features of zeros
        np.testing.assert_allclose(has, had, rtol=1e-3, atol=1e-3, err_msg=place)


def test_a_run_that_closes_nothing_takes_up_no_bypasses(domain, pair):  # noqa: F811
    made, _ = domain
    other = Parameters(pair[2], CLASSES, SEED)
    other.load(unfolded(made, other.state()), "noise")
    assert other.closed == ()


def test_what_does_not_fit_is_refused_in_one_line(domain):
    made, other = domain
    weights = {name: array for name, array in made.weights.items() if name != f"exits.{min(other.exits)}.around"}
    with pytest.raises(CheckpointError, match="domain noise does not fit this run .*around"):
        unfolded(made._replace(weights=weights), other.state())
    with pytest.raises(CheckpointError, match="older da3"):
        of_domain(made._replace(gated=True))


def test_a_name_that_is_nothing(tmp_path):
    with pytest.raises(CheckpointError, match=r"--from roses: name a finished run in runs, a pack") as caught:
        find_start("roses", "runs")
    assert "\n" not in str(caught.value)
    (tmp_path / "half").mkdir()
    with pytest.raises(CheckpointError, match="half has no finished model to start from"):
        find_start("half", str(tmp_path))
