"""``da3 calibrate --unknown``: a finished domain is shown its photos."""

import json
import shutil

import numpy as np
import pytest
import synthetic_bundle
from PIL import Image
from typer.testing import CliRunner

from da3.calib import CalibrationError, calibrate_unknown
from da3.runtime import Bundle, Runtime
from da3.runtime.bundle import read_domain
from da3.toolchain.cli.commands import app

NAMES = ("flowers_0", "flowers_1", "flowers_2")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(bundle, photos): photos of one colour each, in train/ and val/."""
    folder = tmp_path_factory.mktemp("unknown")
    synthetic_bundle.write_exits_bundle(folder / "bundle", domains=("flowers",))
    random = np.random.RandomState(3)
    for split in ("train", "val"):
        for name in NAMES:
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for number in range(10):
                shade = np.array([200, 90, 140]) + random.randint(-30, 30)
                pixels = np.clip(shade + random.randint(-20, 20, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder / "bundle", folder / "photos"


@pytest.fixture
def bundle(built, tmp_path):
    return shutil.copytree(built[0], tmp_path / "bundle")


@pytest.fixture
def photos(built):
    return built[1]


def description(bundle):
    return json.loads((bundle / "domains" / "flowers" / "domain.json").read_text())


def familiar(bundle):
    with Bundle(bundle) as opened:
        return read_domain(opened, "flowers").familiar


def test_it_is_fitted_to_train_and_calibrated_on_val(bundle, photos):
    before, seen = description(bundle), []
    found = calibrate_unknown(bundle, "flowers", photos, on_progress=lambda *now: seen.append(now))
    assert found.familiar.photos == (30, 30) and found.familiar.limit == 0.05 and found.unreadable == ()
    assert familiar(bundle).places == found.familiar.places
    after = description(bundle)
    assert after.pop("familiar")["file"] == "familiar.safetensors" and after == before
    assert seen[-1] == ("looking at photos", 60, 60)
    with Runtime(bundle, backend="reference") as runtime:
        known = [p.known for p in runtime.run(str(photos / "val"), "flowers")]
        noise = np.random.RandomState(0).randint(0, 256, (20, 24, 3)).astype(np.uint8)
        assert sum(known) >= 28 and runtime.run(noise, "flowers")[0].known is False


def test_one_folder_is_split_and_unreadable_photos_are_named(bundle, photos, tmp_path):
    folder = tmp_path / "one"
    for split in ("train", "val"):
        for path in photos.glob(f"{split}/*/*"):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.parent.name / f"{split}{path.name}")
    (folder / "flowers_0" / "broken.png").write_bytes(b"no picture")
    found = calibrate_unknown(bundle, "flowers", folder)
    assert sum(found.familiar.photos) == 60 and found.familiar.photos[1] == pytest.approx(20, abs=1)
    assert [path.endswith("broken.png") for path, _ in found.unreadable] == [True]


def test_the_share_of_false_alarms_alone(bundle, photos):
    calibrate_unknown(bundle, "flowers", photos, false_alarms=0.2)
    first = familiar(bundle)
    assert first.limit == 0.2
    calibrate_unknown(bundle, "flowers", false_alarms=0.01)
    assert familiar(bundle).limit == 0.01 and familiar(bundle).places == first.places


def test_a_dry_run_changes_nothing(bundle, photos):
    calibrate_unknown(bundle, "flowers", photos, dry_run=True)
    assert familiar(bundle) is None and not (bundle / "domains" / "flowers" / "familiar.safetensors").exists()


def test_what_cannot_be_is_said_in_a_line(bundle, photos, tmp_path):
    def refused(message, *arguments, **options):
        with pytest.raises(CalibrationError, match=message) as caught:
            calibrate_unknown(bundle, "flowers", *arguments, **options)
        assert "\n" not in str(caught.value)

    refused("needs photos of flowers: --data FOLDER")
    refused("needs photos", false_alarms=0.1)  # nobody has looked yet
    refused("a share between 0 and 1", photos, false_alarms=1.0)
    for name in NAMES:
        shutil.copytree(photos / "val" / name, tmp_path / "few" / name)
    refused("21 photos to fit to and 9 to calibrate on: it takes 20 of each", tmp_path / "few")
    shutil.copytree(photos / "val" / NAMES[0], tmp_path / "few" / "cats")
    refused("cats is no class of domain flowers", tmp_path / "few")
    assert familiar(bundle) is None


def test_the_command(bundle, photos):
    def run(*words):
        return CliRunner().invoke(app, ["calibrate", "--bundle", str(bundle), "--domain", "flowers", *map(str, words)])

    done = run("--unknown", "--data", photos, "--false-alarms", 0.1)
    assert done.exit_code == 0
    assert "flowers: of its own photos 10.0% are said to be unknown; fitted to 30, calibrated on 30" in done.stdout
    assert "30 photos are few" in done.stdout and familiar(bundle).limit == 0.1
    assert "--dry-run" in run("--unknown", "--false-alarms", 0.3, "--dry-run").stdout
    assert familiar(bundle).limit == 0.1
    for words, message in (
        (("--false-alarms", 0.1, "--max-drop", 1, "--data", photos), "--false-alarms goes with --unknown"),
        (("--unknown", "--int8", "--data", photos), "choose one"),
        (("--unknown", "--plot", "x.png", "--data", photos), "--plot goes with a goal"),
    ):
        assert message in str(run(*words).exception)
