"""Fixtures for tests of the TensorRT backend: engines as each simulated release builds them, and the CPU's answers."""

import pytest
import synthetic_bundle
from simulation import simulated
from trt_answers import DOMAINS

from da3.runtime import Runtime
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines


@pytest.fixture(scope="session")
def answers(built):
    """{domain: (images, BatchResult on the CPU)}; some images skip a block that others run."""
    with Runtime(built[0], backend="reference") as runtime:
        found = {name: runtime.run_batch(synthetic_bundle.images(6), name) for name in DOMAINS}
    for result in found.values():
        assert not result.blocks.all(axis=0).all() and result.blocks[:3].any(axis=0).all()
        assert len({tuple(row) for row in result.blocks[:3]}) > 1
    return found


@pytest.fixture(scope="session")
def engines(built, tmp_path_factory):
    """engines(release, precision, ...) -> the folder of engines that the simulated release builds; built once."""
    folders = {}

    def make(release, precision="fp32", sm=87, gpu="Orin"):
        key = (release, precision, sm, gpu)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("engines")
            with simulated(tensorrt=release, sm=sm, gpu=gpu):
                build_engines(built[0], precision, (1, 4), engines=str(folders[key]))
        return str(folders[key])

    return make


@pytest.fixture
def opened(built, engines):
    """opened(release, precision) -> a Runtime on TensorRT; to be used inside a simulation."""

    def make(release, precision="fp32", sm=87):
        return Runtime(built[0], TensorRTBackend(engines(release, precision, sm), precision))

    return make
