"""What a domain normalises by, as PyTorch measures it, however much of the photos is kept meanwhile."""

import numpy as np
import pytest
import torch

from da3.runtime.learning import derive_observation, statistics
from da3.runtime.learning.exit_features import ExitFeatures
from da3.runtime.learning.on_cpu import ReferenceRunner
from da3.runtime.learning.parameters import Parameters
from da3.runtime.training.config import AdaptorSpec, MemorySettings
from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.network import DomainModel, with_exits
from tests.runtime.test_learning_step import NETWORKS, deployed


@pytest.fixture(scope="module", params=NETWORKS[::4], ids=["mobilenet_v2", "resnet18"])
def pair(request):
    """A network that PyTorch has measured, its files, and the photos."""
    arch, width, size, _ = request.param
    backbone = load_backbone(arch, random_weights(arch, width))
    spec = with_exits(AdaptorSpec.of(arch), backbone, size)
    model = DomainModel(
        backbone, spec, size=size, classes=3, may_close=False, memory=MemorySettings(keep_precision="fp32")
    )
    images = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(1))
    model.fit_normalisation(lambda: [images])
    return model, deployed(model), images.numpy()


@pytest.mark.parametrize("limit", [statistics.MOST_KEPT, 1], ids=["kept", "seen twice"])
def test_statistics_are_pytorchs(pair, limit, monkeypatch):
    model, deployment, images = pair
    monkeypatch.setattr(statistics, "MOST_KEPT", limit)
    ours = Parameters(deployment.manifest, 3, 0)
    runner = ReferenceRunner(derive_observation(deployment))
    looked = []

    def observe(batch, tensors):
        looked.append(len(batch))
        return runner.run({"image": batch, **{"domain:" + name: array for name, array in tensors.items()}})

    batches = [images[:2], images[2:4], images[4:]]
    statistics.fit_normalisation(ours, observe, ExitFeatures(deployment), lambda: batches)
    assert looked == [2, 2, 1] * (1 if limit > 1 else 2)
    theirs = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    state = ours.state()
    checked = [name for name in state if name.endswith(("mean", "std", "out_scale"))]
    assert any(name.startswith("exits.") for name in checked) and any(name.startswith("head.") for name in checked)
    for name in checked:
        np.testing.assert_allclose(state[name], theirs[name], rtol=1e-3, atol=1e-5, err_msg=name)
