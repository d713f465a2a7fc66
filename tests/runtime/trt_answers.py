"""Are a backend's answers those of the CPU?"""

import numpy as np
import pytest
import synthetic_bundle
from simulation import CUDA, RELEASES

DOMAINS = ("flowers", "signs")
TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2}
NEWEST = "11.4.0"
PYTHON = "cuda-python 13.0"
# How CUDA is reached hardly depends on TensorRT's release: the oldest and the newest meet every binding.
INSTALLED = [(release, cuda) for release in (RELEASES[0], NEWEST) for cuda in CUDA]
INSTALLED += [(release, cuda) for release in RELEASES[1:-1] for cuda in ("pycuda", "cuda-python 12.6")]


def check(runtime, answers, domain, rows, precision="fp32"):
    """The images of those rows, as one batch, answered as on the CPU."""
    images = np.ascontiguousarray(synthetic_bundle.images(6)[rows])
    result, expected = runtime.run_batch(images, domain), answers[domain]
    assert (result.blocks == expected.blocks[rows]).all()
    np.testing.assert_allclose(result.logits, expected.logits[rows], rtol=0, atol=TOLERANCE[precision])


def inferences(device, monkeypatch):
    """The engines' runs from now on, started alone or in a graph."""
    found = []
    launch = type(device.timeline).launch

    def counted(timeline, stream, works):
        found.extend(work.name for work in works if work.name.startswith("inference"))
        launch(timeline, stream, works)

    monkeypatch.setattr(type(device.timeline), "launch", counted)
    return found


QUICK = ("8.2.1", "8.6.1", "10.3.0", NEWEST)
# For parametrize: the releases in between are in the slow tests.
EVERY_RELEASE = [pytest.param(release, marks=() if release in QUICK else pytest.mark.slow) for release in RELEASES]
