"""Calibration meets its budget, tells the truth about it, and changes the threshold and nothing else."""

import json
import shutil

import pytest

from da3.calib import calibrate
from da3.calib.errors import CalibrationError
from da3.export.exporter import export_domain
from da3.runtime import Runtime
from da3.runtime.errors import Da3Error
from da3.runtime.images.paths import list_labelled
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    """A bundle whose domain `signs` has gates trained for a few steps, and `plain` has none."""
    folder = tmp_path_factory.mktemp("calibration")
    for domain, keep in (("signs", 0.8), ("plain", 1.0)):
        options = TrainOptions(
            domain=domain,
            data=str(photos),
            runs=folder / "runs",
            weights="demo",
            size=32,
            epochs=4,
            batch_size=8,
            lr=0.02,
            keep=keep,
        )
        train(options, SilentReporter())
        export_domain(domain, folder / "runs", folder / "bundle")
    return folder / "bundle"


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy to change."""
    return shutil.copytree(exported, tmp_path / "bundle")


def score(bundle, folder):
    with Runtime(bundle) as runtime:
        _, photos = list_labelled(folder, runtime.use("signs").classes)
        found = runtime.run([path for path, _ in photos])
    right = sum(p.index == label for p, (_, label) in zip(found, photos, strict=True))
    return right / len(photos), sum(p.flops_share for p in found) / len(found)


@pytest.mark.parametrize("target", [0.1, 0.3, 0.45])
def test_meets_the_budget(target, bundle, photos):
    done = calibrate(bundle, "signs", photos, target)
    assert done.photos == 12 and not done.unreadable
    assert done.after.flops_share <= 1 - target
    assert (done.after.accuracy, done.after.flops_share) == pytest.approx(score(bundle, photos / "val"), abs=1e-6)
    described = json.loads((bundle / "domains" / "signs" / "domain.json").read_text())
    assert described["theta"] == done.after.theta
    assert described["metrics"]["flops_share"] == done.after.flops_share


def test_changes_the_threshold_and_nothing_else(bundle, photos):
    before = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    calls = []
    done = calibrate(bundle, "signs", photos / "val", 0.3, lambda *facts: calls.append(facts))
    after = {p: p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    assert before.keys() == after.keys()
    assert [p.name for p in before if before[p] != after[p]] == ["domain.json"]
    assert done.all_on.flops_share == 1.0
    for what in ("reading photos", "measuring"):
        steps = [(d, t) for w, d, t in calls if w == what]
        assert steps[-1][0] == steps[-1][1] and steps == sorted(steps)


def test_more_skipping_never_runs_more(bundle, photos):
    shares = [calibrate(bundle, "signs", photos, skip).after.flops_share for skip in (0.05, 0.2, 0.35, 0.45)]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1]


def test_bad_input(bundle, photos, tmp_path):
    for domain, target, message in (
        ("plain", 0.3, "without gates: train it with --keep"),
        ("signs", 0.99, "can skip 0.[0-9]+ of its block FLOPs at most"),
        ("signs", 1.0, "use a share from 0"),
        ("signs", -0.1, "use a share from 0"),
    ):
        with pytest.raises(CalibrationError, match=message):
            calibrate(bundle, domain, photos, target)
    with pytest.raises(Da3Error, match="unknown domain 'signz'.*plain, signs"):
        calibrate(bundle, "signz", photos, 0.3)
    with pytest.raises(Da3Error, match="not a folder"):
        calibrate(bundle, "signs", tmp_path / "none", 0.3)
    (tmp_path / "junk" / "class0").mkdir(parents=True)
    (tmp_path / "junk" / "class0" / "a.jpg").write_bytes(b"junk")
    with pytest.raises(CalibrationError, match="none of the 1 photos"):
        calibrate(bundle, "signs", tmp_path / "junk", 0.3)
