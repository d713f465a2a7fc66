"""What is closed, and what stands in for it, is what PyTorch's network would close."""

import numpy as np
import pytest
import torch

from da3.export.segments import deploy
from da3.runtime.bundle import Bundle, write_files
from da3.runtime.learning.answering import exit_logits
from da3.runtime.learning.bypass_fit import neighbourhood_means
from da3.runtime.learning.closing import Closing, answers_loss
from da3.runtime.learning.making import FORCED
from da3.runtime.learning.on_cpu import CpuRunning
from da3.runtime.learning.parameters import Parameters
from da3.toolchain.backbones import preprocessing_of, random_weights
from da3.toolchain.methods import Task, adaptor_spec, method
from da3.toolchain.network import answers_loss as torch_loss
from da3.toolchain.network import closing_costs, fit_bypasses, open_blocks
from da3.toolchain.network.neighbourhood import with_neighbours

SIZE, CLASSES = 64, 4


@pytest.fixture(scope="module", params=["mobilenet_v2", "resnet18"])
def pair(request, tmp_path_factory):
    """PyTorch's model of a domain that has learnt something and closes a block, ours of the same numbers, a bundle."""
    arch = request.param
    weights = random_weights(arch, 0.35 if arch == "mobilenet_v2" else 1.0)
    spec = adaptor_spec(arch, weights, SIZE)
    model = method("da3")(Task(arch=arch, size=SIZE, classes=CLASSES, flops_budget=0.54, adaptor=spec), weights).model
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(6, 3, SIZE, SIZE, generator=draw)
    model.fit_normalisation(lambda: [images])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("substitutes."):
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
        fit_bypasses(model, [images])
    model.close(open_blocks(model)[1])
    folder = tmp_path_factory.mktemp("closing") / "bundle"
    write_files(folder, deploy(model, preprocessing_of(SIZE, weights)).every_file())
    bundle = Bundle(folder)
    ours = Parameters(bundle.manifest, CLASSES, 0, may_close=True)
    state = {k: v.numpy() for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    ours.load(state, "here")
    return model.train(), ours, bundle, images


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
def test_bypasses_and_costs_are_pytorch_s(pair, backend):
    model, ours, bundle, images = pair
    labels = np.random.RandomState(0).randint(0, CLASSES, 6)
    blocks = open_blocks(model)
    assert ours.open_blocks() == blocks and ours.closed == model.closed_blocks
    runner = CpuRunning(backend, 1).open(FORCED, bundle, CLASSES)
    closing = Closing(ours, exit_logits(bundle.manifest), runner)
    batches = [(images.numpy()[rows], labels[rows]) for rows in (slice(0, 4), slice(4, 6))]
    fitted = sorted(set(ours.bypasses) & set(blocks))
    for block in fitted:
        ours.bypasses[block].parameters["down"][...] = 0
    closing.fit_bypasses(batches)
    fit_bypasses(model, [images])
    found = closing.costs(batches, blocks)
    expected = closing_costs(model, [(images, torch.from_numpy(labels))], blocks)
    scale = max(abs(cost) for cost in expected.values())
    assert scale > 1e-3
    for block in blocks:
        assert found[block] == pytest.approx(expected[block], abs=2e-3 * scale), block
    for block in fitted:  # which maps it is made of is not unique, their product is
        theirs = {name: parameter.detach().numpy() for name, parameter in model.bypass(block).named_parameters()}
        products = [held["up"] @ held["down"] for held in (ours.bypasses[block].parameters, theirs)]
        assert np.abs(products[0] - products[1]).max() <= 2e-2 * np.abs(products[1]).max(), block


def test_loss():
    random = np.random.RandomState(0)
    logits, labels = random.randn(4, 5, CLASSES).astype(np.float32) * 3, random.randint(0, CLASSES, 5)
    tensors, expected = torch.from_numpy(logits), torch.from_numpy(labels)
    for exits in (0, 3):
        theirs = float(torch_loss(tensors[0], list(tensors[1 : 1 + exits]), expected, 0.0))
        assert answers_loss(logits[0], list(logits[1 : 1 + exits]), labels) == pytest.approx(theirs, rel=1e-6)


def test_neighbourhood():
    z = np.random.RandomState(0).randn(2, 4, 4, 3).astype(np.float32)
    expected = with_neighbours(torch.from_numpy(z.reshape(2, 16, 3)), 4).numpy()[..., 3:].reshape(z.shape)
    assert np.allclose(neighbourhood_means(z), expected, atol=1e-6)
