"""Telling pictures that are none of a domain's: the arithmetic, on features made for it."""

import numpy as np
import pytest

from da3.runtime.familiarity import (
    FALSE_ALARMS,
    FEWEST,
    Asking,
    area_under_curve,
    calibrate,
    fit,
    is_known,
    passed_for_known,
    share_at,
    wanted_values,
)
from da3.runtime.familiarity.asking import energies, look_distances
from da3.runtime.familiarity.fitting import DIRECTIONS, DRAWN, fit_look, knots
from da3.runtime.records import ENERGY, LookPlace

WIDTH, CLASSES = 48, 3
PLACES = wanted_values(("e0", "e1"), "features")


def photos(count, seed, foreign=False):
    """Features of photos whose classes are apart, and which differ most in a few directions; (values, labels, logits).
    Foreign ones lie elsewhere, and no class is sure of them."""
    random = np.random.RandomState(seed)
    shape = np.random.RandomState(0)
    means, directions = shape.normal(0, 1, (CLASSES, WIDTH)) + 2, shape.normal(0, 1, (4, WIDTH))
    labels = random.randint(CLASSES, size=count)
    values = {}
    for name in ("e0", "e1", "features"):
        centre = shape.normal(0, 1, (1, WIDTH)) + 2 if foreign else means[labels]
        rest = random.normal(0, 1, (count, 4)).dot(directions) + random.normal(0, 0.3, (count, WIDTH))
        values[name] = ((centre + rest) * random.uniform(0.5, 2, (count, 1))).astype(np.float32)
    logits = random.normal(0, 1, (count, CLASSES)) + (0 if foreign else 6) * np.eye(CLASSES)[labels]
    return values, labels, logits.astype(np.float32)


@pytest.fixture(scope="module")
def familiar():
    values, labels, _ = photos(300, 1)
    held_out, _, logits = photos(200, 2)
    return calibrate(PLACES, fit(values, labels), held_out, logits, len(labels))


def asked(familiar, left, values, logits):
    return np.array(Asking(familiar).shares(left.tolist(), values, logits))


def ends(logits, at=2):
    return np.full(len(logits), at)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_as_many_false_alarms_as_are_promised(familiar, place):
    values, _, logits = photos(4000, 3)
    shares = asked(familiar, ends(logits, place), values, logits)
    assert np.mean(shares < FALSE_ALARMS) == pytest.approx(FALSE_ALARMS, abs=0.03)
    assert np.mean(shares < 0.5) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_others_are_told_from_its_own(familiar, place):
    own, _, own_logits = photos(500, 4)
    others, _, logits = photos(500, 5, foreign=True)
    known, strange = asked(familiar, ends(own_logits, place), own, own_logits), None
    strange = asked(familiar, ends(logits, place), others, logits)
    assert area_under_curve(-known, -strange) > 0.95
    assert len(np.unique(strange)) > 490, "beyond the farthest of its own, stranger ones must have less still"


def test_every_photo_is_judged_where_it_left(familiar):
    values, _, logits = photos(30, 6)
    left = np.arange(30) % 3
    mixed = asked(familiar, left, values, logits)
    for place in range(3):
        alone = asked(familiar, ends(logits, place), values, logits)
        np.testing.assert_allclose(mixed[left == place], alone[left == place], rtol=1e-4)
    late = {name: np.where(left[:, None] >= at, array, np.nan) for at, (name, array) in enumerate(values.items())}
    np.testing.assert_allclose(asked(familiar, left, late, logits), mixed, rtol=1e-4)


def test_a_domain_without_exits_has_one_place():
    values, labels, _ = photos(60, 1)
    held_out, _, logits = photos(60, 2)
    only = wanted_values((), "features")
    assert only == (("features", ENERGY),)
    found = calibrate(only, fit({"features": values["features"]}, labels), held_out, logits, 60)
    assert (asked(found, ends(logits, 4), held_out, logits) == asked(found, ends(logits, 0), held_out, logits)).all()


def test_the_places_terms():
    assert PLACES == (("e0",), ("e0", "e1"), ("e0", "features", ENERGY))


@pytest.mark.parametrize("count", [30, 200])  # fewer photos than features, and more
def test_the_distance_is_mahalanobis(count):
    values, labels, _ = photos(count, 7)
    look = fit_look(values["features"], labels)
    asked = photos(20, 8)[0]["features"]
    unit, seen = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (values["features"], asked))
    means = np.stack([unit[labels == k].mean(0) for k in range(CLASSES)])
    rest = unit - means[labels]
    variances, vectors = np.linalg.eigh(rest.T.dot(rest) / count)
    taken = min(DIRECTIONS, count // 2)
    mean = variances.mean()
    drawn = (1 - DRAWN) * variances + DRAWN * mean
    drawn[:-taken] = (1 - DRAWN) * variances[:-taken].sum() / (WIDTH - taken) + DRAWN * mean
    inverse = (vectors / drawn).dot(vectors.T)
    away = seen[:, None] - means[None]
    expected = np.einsum("bki,ij,bkj->bk", away, inverse, away).min(1) * drawn[0]
    np.testing.assert_allclose(look_distances(look, asked), expected, rtol=0.02, atol=2e-3)


def test_few_photos_a_class_have_one_mean():
    values, _, _ = photos(60, 1)
    assert len(fit_look(values["e0"], np.arange(60) // 4).offsets) == 15
    assert len(fit_look(values["e0"], np.arange(60) // 3).offsets) == 1


def test_energy_is_low_where_a_logit_is_high():
    logits = np.array([[0.0, 0, 0], [9, 0, 0], [1000, 0, 0]], np.float32)
    np.testing.assert_allclose(energies(logits), [-np.log(3), -9 - np.log(1 + 2 * np.exp(-9.0)), -1000])


def test_shares_between_and_beyond_the_knots():
    place = LookPlace(("e0",), ((0.75, 1.0), (0.5, 2.0), (0.25, 3.0)))
    found = [share_at(place, far) for far in (0.0, 1.0, 1.5, 3.0, 3 + np.log(2), np.nan, np.inf, 1e300)]
    np.testing.assert_allclose(found, [0.75, 0.75, 0.625, 0.25, 0.125, 0, 0, 0], atol=1e-300)


def test_knots_are_the_chances_of_a_new_photo():
    far = np.array([3.0, 1, 2])
    assert knots(far) == ((0.75, 1.0), (0.5, 2.0), (0.25, 3.0))
    many = knots(np.random.RandomState(0).normal(size=1000))
    assert len(many) <= 32 and many[-1][0] == pytest.approx(1 / 1001)
    assert [far for _, far in many] == sorted(far for _, far in many)


def test_too_few_or_broken_photos_give_nothing():
    values, labels, logits = photos(FEWEST, 1)
    looks = fit(values, labels)
    assert calibrate(PLACES, looks, values, logits, FEWEST) is not None
    few = {name: array[1:] for name, array in values.items()}
    assert fit(few, labels[1:]) is None and calibrate(PLACES, looks, few, logits[1:], FEWEST) is None
    broken = dict(values, e1=np.full_like(values["e1"], np.nan))
    assert fit(broken, labels) is None and calibrate(PLACES, looks, broken, logits, FEWEST) is None
    assert calibrate(PLACES, looks, values, logits * np.float32(np.inf), FEWEST) is None


def test_what_is_no_number_is_unknown(familiar):
    values, _, logits = photos(2, 1)
    values["e0"][0, 0] = np.nan
    shares = asked(familiar, ends(logits), values, logits)
    assert shares[0] == 0 and shares[1] > 0 and not is_known(familiar, shares[0])


def test_the_limit(familiar):
    assert is_known(familiar, FALSE_ALARMS) and not is_known(familiar, FALSE_ALARMS - 1e-6)
    assert not is_known(familiar, 0.3, limit=0.4) and is_known(familiar, 0.01, limit=0.0)


def test_the_area_under_the_curve_counts_pairs():
    random = np.random.RandomState(0)
    own, others = random.randint(8, size=40), random.randint(3, 11, size=30)  # with many ties
    pairs = [(a < b) + 0.5 * (a == b) for a in own for b in others]
    assert area_under_curve(own, others) == pytest.approx(np.mean(pairs))
    assert area_under_curve(np.array([0.0]), np.array([1.0])) == 1


def test_who_passes_at_a_share_of_false_alarms():
    own = np.arange(100.0)
    assert passed_for_known(own, np.array([93.5, 94.0, 94.5, 200.0])) == 0.5
