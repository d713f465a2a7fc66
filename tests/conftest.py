"""Fixtures that several rooms share: small photo folders, small weights files, and the photos beside a checkout."""

from pathlib import Path

import pytest
import torch
from photo_folders import write_photos
from safetensors.torch import save_file

from da3.toolchain.backbones import NAMES, random_weights
from da3.toolchain.curves import history
from da3.toolchain.training.options import TrainOptions

# Networks this small gain nothing from a second thread, and lose much where another process has the other core.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"
WIDTH = {name: 0.35 for name in NAMES if not name.startswith("resnet")}


@pytest.fixture(scope="session", autouse=True)
def curves_are_not_drawn():
    """Drawing its curves takes most of the time of a run this small."""
    draw = history.draw_elsewhere
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "draw_elsewhere", lambda path, runs: path.write_bytes(b""))
        yield draw


@pytest.fixture
def curves_are_drawn(curves_are_not_drawn, monkeypatch):
    """They are, in this test."""
    monkeypatch.setattr(history, "draw_elsewhere", curves_are_not_drawn)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """train/ and val/ with 3 classes of 8 and 4 photos, 48 x 40 pixels."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def more_photos(tmp_path_factory):
    """The same with 8 photos in val/ too: enough to say what is unknown."""
    return write_photos(tmp_path_factory.mktemp("more"), val=8)


@pytest.fixture(scope="session")
def weights_files(tmp_path_factory):
    """A safetensors file with random weights for each backbone, by name."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for arch in NAMES:
        weights = random_weights(arch, WIDTH.get(arch, 1.0))
        paths[arch] = folder / f"{arch}.safetensors"
        save_file(weights.state, paths[arch], weights.metadata(arch))
    return paths


@pytest.fixture
def small_run(photos, weights_files, tmp_path):
    """A function that makes the options of a run of seconds: ``small_run(domain, **changes)``."""

    def make(domain="signs", **changes):
        arch = changes.pop("backbone", "mobilenet_v2")
        settings = {
            "data": str(photos),
            "runs": tmp_path / "runs",
            "backbone": arch,
            "weights": str(weights_files[arch]),
            "size": 32,
            "epochs": 2,
            "batch_size": 8,
            "workers": 2,
        }
        return TrainOptions(domain=domain, **{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def shared_photos():
    """The folder of real domains beside the checkout; skips where it is not there."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real photos at {SHARED / 'data'}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_weights():
    """An ImageNet MobileNetV2 beside the checkout; skips where it is not there."""
    path = SHARED / "weights" / "mobilenet_v2_imagenet_tf.safetensors"
    if not path.is_file():
        pytest.skip(f"no weights at {path}")
    return path
