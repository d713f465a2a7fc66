"""A small simulated device, and pycuda with its context pushed."""

import pytest

from .. import simulated
from .helpers import pycuda_context


@pytest.fixture
def device():
    with simulated(memory=1 << 20) as made:
        yield made


@pytest.fixture
def cuda(device):
    with pycuda_context() as driver:
        yield driver
