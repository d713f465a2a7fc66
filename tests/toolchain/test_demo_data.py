"""The demo's domains, the weights shipped for it, and the script that makes them."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

from da3.runtime.errors import Da3Error  # noqa: E402
from da3.toolchain.backbones import load_backbone, load_weights  # noqa: E402
from da3.toolchain.backbones.weights import DEMO_PATH, backbone_keys  # noqa: E402
from da3.toolchain.demo.photos import DOMAINS, GLYPH_FONTS, PER_CLASS, SIZE, write_domain  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "examples" / "train_demo_backbone.py"


def digests(folder: Path) -> dict[str, str]:
    """Path below ``folder`` -> sha256 of the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", DOMAINS)
def test_layout_and_determinism(name, tmp_path):
    folder = write_domain(name, tmp_path / "a")
    assert folder == tmp_path / "a" / name
    assert sorted(path.name for path in folder.iterdir()) == ["train", "val"]
    classes = sorted(path.name for path in (folder / "train").iterdir())
    assert classes == sorted(path.name for path in (folder / "val").iterdir())
    for split, count in PER_CLASS[name].items():
        for label in classes:
            assert len(list((folder / split / label).glob("*.png"))) == count
    sample = Image.open(next((folder / "val").rglob("*.png")))
    assert (sample.mode, sample.size) == ("RGB", (SIZE, SIZE))

    first = digests(folder)
    assert len(set(first.values())) == len(first), "two images are the same: a split may leak into the other"
    assert digests(write_domain(name, tmp_path / "a", seed=1)) != first
    assert digests(write_domain(name, tmp_path / "a")) == first  # again, over other files


def test_domains_are_small_enough_to_train_in_seconds():
    classes = {"digits": 10, "glyphs": 26}
    for name in DOMAINS:
        assert 400 <= classes[name] * PER_CLASS[name]["train"] <= 600
        assert 200 <= classes[name] * PER_CLASS[name]["val"] <= 300


def test_glyph_fonts_are_disjoint():
    assert not set(GLYPH_FONTS["train"]) & set(GLYPH_FONTS["val"])


def test_unknown_domain(tmp_path):
    with pytest.raises(Da3Error, match="unknown demo domain 'digit'; known are: digits, glyphs"):
        write_domain("digit", tmp_path)


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(Da3Error, match=r"pip install 'da3\[demo\]'"):
        write_domain("digits", tmp_path)


def test_shipped_weights():
    assert DEMO_PATH.stat().st_size < 3_000_000
    weights = load_weights("demo", "mobilenet_v2")
    assert (weights.arch, weights.width, weights.padding) == ("mobilenet_v2", 0.5, "torch")
    assert (weights.input_range, weights.input_size) == ("-1..1", 64)
    assert sorted(weights.state) == sorted(backbone_keys(weights.state)), "the classifier is not shipped"
    backbone = load_backbone("mobilenet_v2", weights)
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert features.shape == (2, 1280)
    assert torch.isfinite(features).all()
    assert features.std() > 0


def test_shipped_features_tell_digits_apart(tmp_path):
    """Nearest class mean over frozen features: a damaged file, or lost metadata, scores near 10 %."""
    folder = write_domain("digits", tmp_path)
    backbone = load_backbone("mobilenet_v2", load_weights("demo", "mobilenet_v2"))

    def features(split: str, count: int) -> torch.Tensor:  # (10, count, 1280)
        rows = []
        for label in sorted((folder / split).iterdir()):
            images = np.stack([np.asarray(Image.open(path)) for path in sorted(label.iterdir())[:count]])
            with torch.no_grad():
                rows.append(backbone(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1))
        return torch.stack(rows)

    train, val = features("train", 30), features("val", 15)
    spread = train.flatten(0, 1).std(0) + 1e-3
    distance = torch.cdist((val / spread).flatten(0, 1), (train / spread).mean(1))  # (150, 10)
    accuracy = (distance.argmin(1).view(10, -1) == torch.arange(10).view(-1, 1)).float().mean()
    assert accuracy > 0.5


@pytest.mark.slow
def test_training_script_writes_a_loadable_file(tmp_path):
    out = tmp_path / "new" / "tiny.safetensors"
    tiny = ["--epochs", "1", "--epoch-images", "48", "--batch-size", "16", "--variants", "2"]
    done = subprocess.run([sys.executable, SCRIPT, *tiny, "--out", out], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "accuracy_held_out" in done.stdout
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    weights = load_weights(str(out), "mobilenet_v2")
    assert (weights.width, weights.padding, weights.input_range, weights.input_size) == (
        0.5,
        "torch",
        "-1..1",
        64,
    )
    load_backbone("mobilenet_v2", weights)
