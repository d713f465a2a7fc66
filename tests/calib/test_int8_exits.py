"""INT8 ranges of a domain with exits and a closed block."""

import shutil

import numpy as np
import pytest
import synthetic_bundle
from PIL import Image

from da3.calib import calibrate_int8
from da3.calib.ranges import Watched
from da3.runtime import Runtime
from da3.runtime.bundle import Bundle, read_domain, update_domain
from da3.runtime.records import ExitRule


@pytest.fixture
def bundle(tmp_path):
    """Half of the pictures of `flowers` leave at its first exit, and block 1 is closed; `signs` decides nothing."""
    synthetic_bundle.write_exits_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def photos(tmp_path):
    random = np.random.RandomState(0)
    (tmp_path / "photos").mkdir()
    for number in range(24):
        Image.fromarray(random.randint(0, 256, (16, 16, 3)).astype(np.uint8)).save(
            tmp_path / "photos" / f"{number}.png"
        )
    return tmp_path / "photos"


def test_decisions_that_agree_are_counted_where_there_are_any(bundle, photos):
    with Runtime(bundle) as runtime:
        pixels = [runtime.preprocessing.load(path) for path in sorted(photos.iterdir())]
        first = runtime.run_batch(runtime.preprocessing.normalise(np.stack(pixels)), "flowers", leave_at=0).logits
    level = float(np.median(synthetic_bundle.confidence(first)))
    update_domain(bundle, "flowers", closed=[1], exits=[ExitRule(level), ExitRule(None)])
    done = calibrate_int8(bundle, {"flowers": photos, "signs": photos})
    flowers, signs = done.agreements
    assert 0.5 <= flowers.same_decisions <= 1 and signs.same_decisions is None
    assert flowers.logit_error < 0.2 * flowers.logit_largest


def test_every_block_is_watched_though_pictures_leave_and_a_block_is_closed(bundle, photos):
    update_domain(bundle, "flowers", closed=[1], exits=[ExitRule(0.0), ExitRule(0.0)])
    with Bundle(bundle) as opened:
        watched, domain = Watched(opened), read_domain(opened, "flowers")
        image = opened.manifest.preprocessing.normalise(np.zeros((1, 16, 16, 3), np.uint8))
        seen = set()
        assert not watched.run(domain, image, lambda file, name, x: seen.add(file))
        assert {"backbone/block_0.onnx", "backbone/block_1.onnx", "backbone/block_2.onnx"} <= seen
        assert watched.run(domain, image, lambda file, name, x: None, all_blocks=True)


def test_nothing_but_the_ranges_changes(bundle, photos, tmp_path):
    before = shutil.copytree(bundle, tmp_path / "before")
    calibrate_int8(bundle, {"flowers": photos})
    for path in before.rglob("*.json"):
        same = path.read_bytes() == (bundle / path.relative_to(before)).read_bytes()
        assert same == (path.name != "manifest.json")
