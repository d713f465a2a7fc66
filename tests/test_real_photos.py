"""Real photos and an ImageNet backbone, where they lie beside the checkout: the figures of the README, again."""

import numpy as np
import pytest

from da3.calib import calibrate
from da3.export.exporter import export_domain
from da3.runtime import Runtime
from da3.runtime.bundle.packs import write_pack
from da3.runtime.calibration import Answers, Goal, best_static, choose, decide, halves, outcome, permuted
from da3.runtime.images.paths import list_labelled
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train


@pytest.fixture
def flowers(shared_photos, shared_weights, tmp_path):
    """A function that trains on flowers and returns the Result."""

    def run(domain="flowers", data=shared_photos / "flowers", **changes):
        options = TrainOptions(
            domain=domain, data=str(data), runs=tmp_path / "runs", weights=str(shared_weights), **changes
        )
        return train(options, SilentReporter())

    return run


@pytest.fixture
def few_flowers(shared_photos, tmp_path):
    """The first photos of each class: enough to train what is then exported, which decides no accuracy."""
    for split, count in (("train", 12), ("val", 4)):
        for label in sorted((shared_photos / "flowers" / split).iterdir()):
            place = tmp_path / "few" / split / label.name
            place.mkdir(parents=True)
            for photo in sorted(label.iterdir())[:count]:
                (place / photo.name).symlink_to(photo)
    return tmp_path / "few"


def test_an_imagenet_backbone_exports_and_its_pack_is_small(flowers, few_flowers, shared_photos, tmp_path):
    flowers(data=few_flowers, epochs=1, size=64, keep=0.8)
    done = export_domain("flowers", tmp_path / "runs", tmp_path / "bundle")  # verifies to 1e-4
    assert (tmp_path / "bundle" / "manifest.json").stat().st_size < 100_000
    pack = write_pack(tmp_path / "bundle", "flowers", tmp_path)
    assert done.domain_bytes < 1_000_000 and (tmp_path / "flowers.da3").samefile(pack)
    with Runtime(tmp_path / "bundle") as runtime:
        assert len(runtime.run(shared_photos / "flowers" / "val" / "roses", "flowers")) == 30


@pytest.mark.slow
def test_da3_is_at_or_above_full_fine_tuning(flowers):
    """Same images, same epochs, 160 px, three seeds: one seed's 150 validation photos decide little."""
    best = {
        method: np.mean(
            [
                flowers(f"{method}{seed}", method=method, seed=seed, epochs=12, size=160).best["val_accuracy"]
                for seed in range(3)
            ]
        )
        for method in ("da3", "finetune")
    }
    assert best["da3"] >= best["finetune"] > 0.8


@pytest.mark.slow
def test_which_pictures_leave_depends_on_the_picture(flowers, shared_photos):
    """Held-out photos, each half asked by thresholds that were chosen on the other: the same decisions dealt to the
    photos at random cost the same and lose accuracy, and so does the best choice that looks at no picture."""
    result = flowers("signs", shared_photos / "signs", epochs=4, size=96, flip=False)
    with np.load(result.folder / "validation.npz") as arrays:
        answers = Answers(arrays["logits"], arrays["labels"], arrays["cost"])
    one, other = halves(answers.labels, seed=0)
    left = np.empty(len(answers.labels), dtype=np.int64)
    for chosen_on, asked in ((one, other), (other, one)):
        left[asked] = decide(answers.logits[asked], choose(answers.of(chosen_on), Goal(most_cost=0.6)).exits)
    found, dealt = outcome(answers, left), permuted(answers, left)
    assert found.cost == pytest.approx(0.6, abs=0.03) and np.count_nonzero(np.array(found.left) > 0.02) > 2
    assert dealt.p < 0.01 and found.accuracy > dealt.accuracy + 0.03
    assert found.accuracy > best_static(answers.costs, answers.right().mean(axis=0), found.cost)


@pytest.mark.slow
def test_a_gated_engine_skips_a_quarter_and_still_sees_flowers(flowers, shared_photos, tmp_path):
    flowers("gated", keep=0.7, epochs=12, size=160)
    export_domain("gated", tmp_path / "runs", tmp_path / "bundle")
    done = calibrate(tmp_path / "bundle", "gated", shared_photos / "flowers" / "val", target_skip=0.25)
    with Runtime(tmp_path / "bundle") as runtime:
        _, photos = list_labelled(shared_photos / "flowers" / "val", runtime.use("gated").classes)
        found = runtime.run([path for path, _ in photos])
    right = np.mean([p.index == label for p, (_, label) in zip(found, photos, strict=True)])
    share = np.mean([p.flops_share for p in found])
    assert share == pytest.approx(done.after.flops_share, abs=1e-6) and share <= 0.75
    assert right == pytest.approx(done.after.accuracy, abs=1e-6) and right > 0.78
