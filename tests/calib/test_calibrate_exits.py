"""Calibration to a goal: exits that meet it, the truth about them, and nothing else changed."""

import json
import shutil

import numpy as np
import pytest
import synthetic_bundle
from PIL import Image
from typer.testing import CliRunner

from da3.calib import CalibrationError, calibrate, reset
from da3.runtime import Bundle, Runtime
from da3.runtime.bundle import update_domain
from da3.runtime.calibration import NOBODY
from da3.runtime.errors import Da3Error
from da3.runtime.images import list_labelled
from da3.toolchain.cli.commands import app
from da3.toolchain.cli.console import out

PHOTOS, CLASSES = 120, 4
SHARES = [100 / 600, 300 / 600, 1.0]  # of the block FLOPs, at the exits after blocks 0 and 1, and at the end


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(bundle, photos of its domain flowers): a photo's class is what the network itself says at the end, for nine of
    ten; at its two exits it says the same of seven of ten."""
    folder = tmp_path_factory.mktemp("calibration")
    synthetic_bundle.write_exits_bundle(folder / "bundle")
    random = np.random.RandomState(3)
    paths = [folder / f"{number}.png" for number in range(PHOTOS)]
    for path in paths:
        cells = (random.randint(0, 256, (4, 4, 3)) + random.randint(0, 256, 3)) / 2
        Image.fromarray(np.kron(cells, np.ones((4, 4, 1))).astype(np.uint8)).save(path)
    with Bundle(folder / "bundle") as bundle:
        preprocessing = bundle.manifest.preprocessing
    images = preprocessing.normalise(np.stack([preprocessing.load(path) for path in paths]))
    weights = centred(synthetic_bundle.random_weights(CLASSES, seed=2), images)
    synthetic_bundle.write_exits_domain(folder / "bundle" / "domains" / "flowers", "flowers", weights, dtype=np.float32)
    ends = synthetic_bundle.Backbone().answers(images, weights)[-1]
    for path, logits in zip(paths, ends, strict=True):
        label = random.randint(CLASSES) if random.rand() < 0.1 else logits.argmax()
        place = folder / "photos" / "val" / f"flowers_{label}"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    return folder / "bundle", folder / "photos"


def centred(weights, images):
    """Biases such that no answer prefers a class."""
    means = synthetic_bundle.Backbone().answers(images, weights).mean(axis=1)
    carried = np.concatenate([np.zeros((1, CLASSES), np.float32), synthetic_bundle.CARRY * means[:-1]])
    for name, mean in zip(("exits.0.bias", "exits.1.bias", "head.bias"), means - carried, strict=True):
        weights[name] = weights[name] - mean
    return weights


@pytest.fixture
def bundle(built, tmp_path):
    return shutil.copytree(built[0], tmp_path / "bundle")


@pytest.fixture
def photos(built):
    return built[1]


def described(bundle, domain="flowers"):
    return json.loads((bundle / "domains" / domain / "domain.json").read_text())


def contents(bundle):
    return {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def measured(bundle, folder):
    """(accuracy, share of FLOPs, share of the photos at each answer) as the engine has it, photo by photo."""
    with Runtime(bundle) as runtime:
        _, labelled = list_labelled(folder, runtime.use("flowers").classes)
        found = runtime.run([path for path, _ in labelled])
    ends = [2 if p.exit is None else p.exit for p in found]
    right = np.mean([p.index == label for p, (_, label) in zip(found, labelled, strict=True)])
    return right, np.mean([p.flops_share for p in found]), np.bincount(ends, minlength=3) / len(found)


def test_each_goal_is_met_and_the_engine_does_as_it_says(bundle, photos):
    for goal in ({"max_drop": 5.0}, {"target_skip": 0.3}, {"target_skip": 0.6}):
        done = calibrate(bundle, "flowers", photos, **goal)
        assert done.photos == PHOTOS and not done.unreadable
        if "max_drop" in goal:
            assert done.after.accuracy >= done.all_run.accuracy - 0.05 and done.after.flops_share < 1
        else:
            assert 1 - goal["target_skip"] - 0.02 < done.after.flops_share <= 1 - goal["target_skip"] + 1e-9
        accuracy, share, left = measured(bundle, photos / "val")
        assert (done.after.accuracy, done.after.flops_share) == pytest.approx((accuracy, share), abs=1e-6)
        assert done.after.left == pytest.approx(left)
        assert done.all_run.left == (0.0, 0.0, 1.0) and done.all_run.flops_share == 1.0
        assert done.after.latency_ms is None and done.latency_curve == ()
        assert [answer.flops_share for answer in done.answers] == pytest.approx(SHARES)
        assert [answer.block for answer in done.answers] == [0, 1, None]


def test_the_domain_says_how_its_exits_came_about(bundle, photos):
    before = contents(bundle)
    done = calibrate(bundle, "flowers", photos, target_skip=0.3)
    after = contents(bundle)
    assert before.keys() == after.keys()
    assert [path.parent.name for path in before if before[path] != after[path]] == ["flowers"]
    content = described(bundle)
    assert [rule["threshold"] for rule in content["exits"]] == [answer.threshold for answer in done.answers[:-1]]
    assert [rule["temperature"] for rule in content["exits"]] == [answer.temperature for answer in done.answers[:-1]]
    assert content["temperature"] == done.answers[-1].temperature
    told = content["calibration"]
    assert told["goal"] == {"target_skip": 0.3} and told["photos"] == PHOTOS and told["folder"] == "photos/val"
    checked = told["cross_fit"]
    assert checked["accuracy"] == content["metrics"]["val_accuracy"] == done.checked.accuracy
    assert checked["flops_share"] == content["metrics"]["flops_share"] == done.checked.flops_share
    assert checked["all_blocks_accuracy"] == done.all_run.accuracy and "latency_ms" not in checked


def test_a_second_goal_starts_from_the_network_not_from_the_first(bundle, photos):
    calibrate(bundle, "flowers", photos, target_skip=0.8)
    again = calibrate(bundle, "flowers", photos, target_skip=0.3)
    assert again.before.flops_share < again.after.flops_share < again.all_run.flops_share
    assert again.all_run.flops_share == 1.0


def test_latency_is_measured_where_it_is_asked_for(bundle, photos):
    calls = []
    done = calibrate(bundle, "flowers", photos, latency_ms=1e4, on_progress=lambda *facts: calls.append(facts))
    times = [answer.latency_ms for answer in done.answers]
    assert times == sorted(times) and times[0] > 0
    assert done.level == NOBODY and done.after.latency_ms == pytest.approx(times[-1])
    assert described(bundle)["calibration"]["cross_fit"]["latency_ms"] == done.checked.latency_ms
    assert all(rule["threshold"] is None for rule in described(bundle)["exits"])
    for what in ("asking every exit", "timing"):
        steps = [(n, total) for w, n, total in calls if w == what]
        assert steps[-1][0] == steps[-1][1] and steps == sorted(steps)
    timed = calibrate(bundle, "flowers", photos, target_skip=0.3, measure_latency=True)
    assert timed.after.latency_ms is not None and len(timed.latency_curve) == len(timed.flops_curve)


def test_goals_out_of_reach_say_what_can_be_had_and_change_nothing(bundle, photos):
    before = contents(bundle)
    with pytest.raises(CalibrationError, match=r"--target-skip 0.9: flowers can save 0.833 of its block FLOPs at most"):
        calibrate(bundle, "flowers", photos, target_skip=0.9)
    with pytest.raises(CalibrationError, match=r"--latency-ms 1e-06: a picture of flowers takes \d.* ms to its first"):
        calibrate(bundle, "flowers", photos, latency_ms=1e-6)
    assert contents(bundle) == before


def test_a_dry_run_changes_nothing(bundle, photos):
    before = contents(bundle)
    done = calibrate(bundle, "flowers", photos, target_skip=0.3, dry_run=True)
    assert done.after.flops_share <= 0.7 and contents(bundle) == before


def test_closed_blocks_count_as_saved(bundle, photos):
    update_domain(bundle, "flowers", closed=[1])
    done = calibrate(bundle, "flowers", photos, max_drop=100)
    assert [answer.flops_share for answer in done.answers] == pytest.approx([100 / 600, 120 / 600, 420 / 600])
    assert done.all_run.flops_share == pytest.approx(0.7) and described(bundle)["closed"] == [1]


def test_reset(bundle, photos):
    calibrate(bundle, "flowers", photos, target_skip=0.6)
    reset(bundle, "flowers")
    accuracy, share, left = measured(bundle, photos / "val")
    assert share == 1.0 and left.tolist() == [0, 0, 1]
    content = described(bundle)
    assert content["exits"] == [{"threshold": None, "temperature": 1.0}] * 2 and content["calibration"] == {}
    assert content["metrics"] == {"val_accuracy": pytest.approx(accuracy), "flops_share": 1.0}
    reset(bundle, "flowers")


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({}, "choose one goal"),
        ({"max_drop": 1.0, "latency_ms": 3.0}, "choose one goal"),
        ({"max_drop": -1.0}, "--max-drop -1"),
        ({"target_skip": 1.0}, "--target-skip 1"),
        ({"latency_ms": 0.0}, "--latency-ms 0"),
        ({"latency_ms": float("nan")}, "--latency-ms nan"),
    ],
)
def test_goals_that_make_no_sense(goal, message, bundle, photos):
    with pytest.raises(CalibrationError, match=message):
        calibrate(bundle, "flowers", photos, **goal)


def test_domains_without_exits_are_refused(tmp_path, bundle, photos):
    synthetic_bundle.write_bundle(tmp_path / "gated")
    for call in (lambda b: calibrate(b, "flowers", photos, max_drop=1.0), lambda b: reset(b, "flowers")):
        with pytest.raises(CalibrationError, match="has gates of format 1, not exits: train and export it again"):
            call(tmp_path / "gated")
    content = described(bundle)
    (bundle / "domains" / "flowers" / "domain.json").write_text(json.dumps(dict(content, exits=[])))
    with pytest.raises(CalibrationError, match="was trained without exits"):
        calibrate(bundle, "flowers", photos, max_drop=1.0)


def test_photos_that_cannot_be_read_are_left_out_and_named(bundle, tmp_path, photos):
    mine = shutil.copytree(photos / "val", tmp_path / "mine")
    broken = next(mine.rglob("*.png"))
    broken.write_bytes(b"no picture")
    done = calibrate(bundle, "flowers", mine, max_drop=1.0)
    assert done.photos == PHOTOS - 1 and done.unreadable[0][0] == str(broken)
    for path in mine.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match="0 of 120 photos can be read"):
        calibrate(bundle, "flowers", mine, max_drop=1.0)


def test_numbers_that_are_not_finite_are_refused(bundle, photos):
    weights = synthetic_bundle.random_weights(CLASSES)
    weights["head.weight"] = np.full_like(weights["head.weight"], 3e38)
    synthetic_bundle.write_exits_domain(bundle / "domains" / "flowers", "flowers", weights, dtype=np.float32)
    with pytest.raises(CalibrationError, match="gives numbers that are not finite"):
        calibrate(bundle, "flowers", photos, max_drop=1.0)


def command(bundle, *words):
    """`da3 calibrate` in this process, wide enough for its tables."""
    words = ["calibrate", "--bundle", bundle, "--domain", "flowers", *words]
    width, out.width = out.width, 140
    try:
        return CliRunner().invoke(app, [str(word) for word in words])
    finally:
        out.width = width


def test_the_command_says_what_it_did(bundle, photos, tmp_path):
    before = contents(bundle)
    done = command(bundle, "--data", photos, "--target-skip", 0.3, "--dry-run", "--plot", tmp_path / "curve.png")
    assert done.exit_code == 0, done.output
    for words in ("30 % of the block FLOPs saved", "checked on other photos", "blind", "ECE after", "ms", "dry run"):
        assert words in done.output
    assert contents(bundle) == before
    assert Image.open(tmp_path / "curve.png").size[0] > 800
    done = command(bundle, "--data", photos, "--max-drop", 5)
    assert done.exit_code == 0 and "mean ms" not in done.output and "dry run" not in done.output
    assert described(bundle)["calibration"]["goal"] == {"max_drop": 5.0}
    done = command(bundle, "--reset")
    assert done.output == "flowers: no picture leaves early any more\n" and described(bundle)["calibration"] == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "PHOTOS", "--target-skip", 0.9], "flowers can save 0.833 of its block FLOPs at most"),
        (["--data", "PHOTOS"], "choose one: a goal"),
        (["--data", "PHOTOS", "--max-drop", 1, "--reset"], "choose one: a goal"),
        (["--data", "PHOTOS", "--max-drop", 1, "--latency-ms", 3], "choose one: a goal"),
        (["--dry-run", "--reset"], "go with a goal"),
        (["--max-drop", 1], "1 --domain and 0 --data"),
        (["--domain", "signs", "--reset"], "one --domain at a time"),
        (["--data", "nowhere", "--max-drop", 1], "nowhere is not a folder"),
    ],
)
def test_the_command_refuses_in_a_line(words, message, bundle, photos):
    before = contents(bundle)
    done = command(bundle, *[photos if word == "PHOTOS" else word for word in words])
    assert isinstance(done.exception, Da3Error) and done.output == ""
    assert message in str(done.exception) and "\n" not in str(done.exception)
    assert contents(bundle) == before
