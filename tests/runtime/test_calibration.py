"""Temperatures, levels for a goal, and the checks of a choice, on synthetic answers whose truth is known."""

import numpy as np
import pytest

from da3.runtime import calibration
from da3.runtime.calibration import Answers, Exits, Goal

COSTS = np.array([0.4, 0.6, 0.8, 1.0])
CLASSES = 6


def answers(photos=600, seed=0, scale=1.0):
    """Exits that see the picture ever better, under noise that is the photo's own; answers are calibrated at `scale` 1:
    labels are drawn from the last answer's probabilities."""
    random = np.random.RandomState(seed)
    last = random.normal(size=(photos, CLASSES)) * 3
    logits = np.stack([last + random.normal(size=last.shape) * noise for noise in (3.0, 2.0, 1.0, 0.0)], axis=1)
    chances = calibration.softmax(last)
    labels = (chances.cumsum(axis=1) < random.rand(photos, 1)).sum(axis=1)
    return Answers(logits * scale, labels, COSTS)


def test_softmax_and_confidence():
    logits = np.log(np.array([[[0.7, 0.2, 0.1]], [[0.25, 0.25, 0.5]]]))
    assert calibration.softmax(logits + 800)[:, 0] == pytest.approx(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    assert calibration.confidence(logits)[:, 0] == pytest.approx([0.7, 0.5])
    assert calibration.confidence(logits[0, 0], 0.5) == pytest.approx(0.49 / (0.49 + 0.04 + 0.01))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_temperature_is_found(scale):
    made = answers(4000, scale=scale)
    found = calibration.fit_temperature(made.logits[:, -1], made.labels)
    assert found == pytest.approx(scale, rel=0.1)


def test_a_few_photos_all_right_do_not_make_the_temperature_vanish():
    labels = np.arange(12) % 3
    assert calibration.fit_temperature(np.eye(3)[labels] * 4, labels) > 0.3


def test_calibration_error():
    made = answers(20000, scale=3.0)
    last = made.logits[:, -1]
    assert calibration.calibration_error(last, made.labels, 3.0) < 0.015
    assert calibration.calibration_error(last, made.labels) > 0.1
    sure, wrong = np.array([[50.0, 0.0]] * 4), np.ones(4, np.int64)
    assert calibration.calibration_error(sure, wrong) == pytest.approx(1.0)


def test_decide_takes_the_first_exit_that_is_sure_enough():
    def row(*sure):
        return [[np.log(c), np.log(1 - c)] for c in sure]

    logits = np.array([row(0.9, 0.6, 0.9), row(0.6, 0.9, 0.9), row(0.6, 0.6, 0.9), [[np.nan] * 2] * 3])
    with np.errstate(invalid="ignore"):
        assert calibration.decide(logits, Exits((0.8, 0.8), (1.0,) * 3)).tolist() == [0, 1, 2, 2]
        assert calibration.decide(logits, Exits((None, 0.8), (1.0,) * 3)).tolist() == [2, 1, 2, 2]
        assert calibration.decide(logits, Exits((0.95, 0.7), (0.5, 1.0, 1.0))).tolist() == [0, 1, 2, 2]


def test_the_curve_runs_from_all_leave_first_to_nobody_leaves():
    made = answers()
    right = made.right().mean(axis=0)
    points = calibration.curve(made, (1.0,) * 4)
    assert (points[0].cost, points[0].accuracy) == pytest.approx((0.4, right[0]))
    assert (points[-1].cost, points[-1].accuracy, points[-1].expected_drop) == pytest.approx((1.0, right[-1], 0.0))
    assert len(points) <= 400 and np.all(np.diff([p.cost for p in points]) >= 0)
    point = points[200]
    left = calibration.decide(made.logits, calibration.exits_at(point.level, (1.0,) * 4))
    assert calibration.outcome(made, left)[:2] == pytest.approx((point.accuracy, point.cost))


def test_earlier_exits_are_asked_to_be_surer():
    found = calibration.exits_at(0.8, (1.0, 1.1, 1.2, 1.3))
    assert found.thresholds == pytest.approx((0.85, 0.8, 0.75)) and found.temperatures == (1.0, 1.1, 1.2, 1.3)
    assert calibration.exits_at(0.8, (1.0, 1.1)).thresholds == pytest.approx((0.8,))
    assert calibration.exits_at(calibration.NOBODY, (1.0,) * 3).thresholds == (None, None)
    assert [rule.temperature for rule in found.rules] == [1.0, 1.1, 1.2]


@pytest.mark.parametrize("most", [0.5, 0.7, 0.9])
def test_cost_goals_are_met_and_used_up(most):
    chosen = calibration.choose(answers(), Goal(most_cost=most))
    assert chosen.met and most - 0.01 < chosen.outcome.cost <= most
    assert sum(chosen.outcome.left) == pytest.approx(1.0)


def test_goals_hold_on_photos_that_had_no_part():
    """Means over networks: one alone may miss, its half of the photos being a sample."""
    for goal in (0.005, 0.02):
        drops = []
        for seed in range(10):
            found = calibration.cross_fit(answers(300, seed), Goal(max_drop=goal), repeats=3)
            drops.append(found.last - found.accuracy)
            assert found.met == 1.0 and found.cost < 0.99
        assert np.mean(drops) < goal + 0.002
    costs = [calibration.cross_fit(answers(300, seed), Goal(most_cost=0.7), repeats=3).cost for seed in range(10)]
    assert np.mean(costs) == pytest.approx(0.7, abs=0.01)


def test_a_larger_drop_never_costs_more():
    made = answers()
    found = [calibration.choose(made, Goal(max_drop=drop)) for drop in (0.0, 0.005, 0.02, 0.1, 1.0)]
    costs = [choice.outcome.cost for choice in found]
    assert costs == sorted(costs, reverse=True) and costs[-1] == pytest.approx(0.4)
    assert all(choice.met for choice in found)


def test_goals_out_of_reach_give_what_can_be_had():
    made = answers()
    cheap = calibration.choose(made, Goal(most_cost=0.3))
    assert not cheap.met and cheap.exits.thresholds[0] == 0.0 and cheap.outcome.cost == pytest.approx(0.4)
    better = calibration.choose(made, Goal(max_drop=-0.5))
    assert not better.met and better.exits.thresholds == (None,) * 3 and better.outcome.cost == 1.0
    assert calibration.cross_fit(made, Goal(most_cost=0.3)).met == 0.0
    with pytest.raises(ValueError):
        calibration.choose(made, Goal())


def test_halves_divide_every_class():
    labels = np.repeat([0, 1, 2], [11, 20, 31])
    one, other = calibration.halves(labels, 3)
    assert sorted([*one, *other]) == list(range(62)) and len(one) == len(other)
    assert np.abs(np.bincount(labels[one]) - np.bincount(labels[other])).max() <= 1
    assert not np.array_equal(one, calibration.halves(labels, 4)[0])
    assert np.array_equal(one, calibration.halves(labels, 3)[0])


def test_no_label_influences_its_own_photo():
    """Labels that are noise: cross-fitting finds chance level; choosing and scoring on the same photos would not."""
    made = answers(200)
    made = made._replace(labels=np.random.RandomState(5).randint(0, CLASSES, 200))
    found = calibration.cross_fit(made, Goal(most_cost=0.6))
    assert found.accuracy == pytest.approx(1 / CLASSES, abs=0.05)


def test_decisions_that_look_beat_those_that_cannot():
    made = answers()
    found = calibration.cross_fit(made, Goal(most_cost=0.7))
    assert found.accuracy > found.static + 0.02 and found.static >= found.permuted - 1e-9
    left = calibration.decide(made.logits, calibration.choose(made, Goal(most_cost=0.7)).exits)
    dealt = calibration.permuted(made, left)
    assert dealt.accuracy < calibration.outcome(made, left).accuracy - 0.02 and dealt.p < 0.01
    blind = np.random.RandomState(1).permutation(left)
    assert calibration.permuted(made, blind).accuracy == pytest.approx(dealt.accuracy)
    assert calibration.permuted(made, blind).p > 0.01


def test_temperatures_of_the_other_half_lower_the_calibration_error():
    made = answers(scale=3.0)
    found = calibration.cross_fit(made, Goal(max_drop=0.01))
    before = [calibration.calibration_error(made.logits[:, k], made.labels) for k in range(4)]
    assert all(after < b for after, b in zip(found.errors, before, strict=True))


def test_best_static_is_the_upper_hull():
    costs, accuracies = np.array([0.4, 0.6, 0.8, 1.0]), np.array([0.6, 0.62, 0.8, 0.78])
    at = [calibration.best_static(costs, accuracies, cost) for cost in (0.3, 0.4, 0.6, 0.8, 0.9, 1.0)]
    assert at == pytest.approx([0.6, 0.6, 0.7, 0.8, 0.8, 0.8])
