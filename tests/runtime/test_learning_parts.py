"""What a domain learns, in numpy: the same numbers, names and steps as in PyTorch."""

import numpy as np
import pytest
import torch

from da3.export.segments import deploy
from da3.runtime.errors import CheckpointError
from da3.runtime.learning.adamw import AdamW
from da3.runtime.learning.parameters import Parameters
from da3.runtime.learning.statistics import normalisers
from da3.runtime.training.recipe import BETAS, EPSILON, WEIGHT_DECAY
from da3.toolchain.backbones import preprocessing_of, random_weights
from da3.toolchain.methods import Task, adaptor_spec, method
from da3.toolchain.network.statistics import statistics
from da3.toolchain.training.adamw import AdamW as TorchAdamW
from da3.toolchain.training.checkpoint import optimizer_arrays

SIZE, CLASSES, SEED = 32, 3, 3


@pytest.fixture(scope="module", params=["mobilenet_v2", "resnet18"])
def pair(request):
    """PyTorch's learner of a domain that may close blocks, and our parameters of it, with the same random numbers."""
    arch = request.param
    weights = random_weights(arch, 0.35 if arch == "mobilenet_v2" else 1.0)
    spec = adaptor_spec(arch, weights, SIZE)
    task = Task(arch=arch, size=SIZE, classes=CLASSES, flops_budget=0.54, adaptor=spec, seed=SEED)
    learner = method("da3")(task, weights)
    manifest = deploy(learner.model, preprocessing_of(SIZE, weights)).manifest
    ours = Parameters(manifest, CLASSES, SEED, may_close=True)
    fresh = {name: array.copy() for name, array in ours.state().items()}
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in learner.domain_state().items():
            if name == "closed":
                tensor[[i for i, can in enumerate(learner.model.closable) if can][::2]] = True
            else:
                noise = torch.randn(tensor.shape, generator=draw)
                tensor.copy_(noise.abs() + 0.5 if name.endswith(("std", "out_scale")) else noise)
    ours.load({name: tensor.numpy() for name, tensor in learner.domain_state().items()}, "here")
    return learner, ours, manifest, fresh


def test_starts_as_pytorch_does(pair):
    learner, _, _, fresh = pair
    task = learner.task
    weights = random_weights(task.arch, 0.35 if task.arch == "mobilenet_v2" else 1.0)
    theirs = method("da3")(task, weights).domain_state()
    assert fresh.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert fresh[name].shape == tuple(tensor.shape) and fresh[name].dtype == tensor.numpy().dtype, name
        assert (fresh[name] == tensor.numpy()).all(), name


def test_optimisers_number_the_same_parameters(pair):
    learner, ours, _, _ = pair
    names = {id(parameter): name for name, parameter in learner.model.named_parameters()}
    assert list(ours.trained()) == [names[id(parameter)] for parameter in learner.parameters()]
    assert ours.count() == sum(parameter.numel() for parameter in learner.parameters())


def test_folded_as_pytorch_folds(pair):
    learner, ours, _, _ = pair
    expected = {name: tensor.numpy() for name, tensor in learner.model.domain_tensors().items()}
    found = ours.fold()
    assert ours.closed == learner.model.closed_blocks and ours.closed
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert np.abs(found[name] - array).max() <= 1e-6 * max(1, np.abs(array).max()), name


def test_gradients_are_unfolded_by_the_folding_s_transpose(pair):
    """<g, fold(w + d) - fold(w)> = <unfold(g), d> for a linear folding, whatever g and d are."""
    _, ours, manifest, _ = pair
    random = np.random.RandomState(0)
    gradients = {n: random.randn(*a.shape) for n, a in ours.fold().items() if not n.endswith(".mean")}
    unfolded = ours.unfold(gradients)
    # A bypass of a block that is open has no gradient, as in PyTorch; nor have statistics.
    bypasses = {f"substitutes.{block}." for block in ours.bypasses if block not in ours.closed}
    trained = {name for name in ours.trained() if not name.startswith(tuple(bypasses))}
    assert unfolded.keys() == trained
    wide = Parameters(manifest, CLASSES, SEED, may_close=True)
    wide.load(ours.state(), "here")
    for part in wide.parts:  # in float64, so that the difference is exact enough to compare
        for held in (part.parameters, part.statistics):
            held.update((name, array.astype(np.float64)) for name, array in held.items())
    before = {name: array.copy() for name, array in wide.fold().items()}
    for name, weight in wide.trained().items():
        if name in unfolded:
            moved = random.randn(*weight.shape)
            weight += moved
            after = wide.fold()
            found = sum(float((gradients[n] * (after[n] - before[n])).sum()) for n in gradients)
            weight -= moved
            expected = float((unfolded[name] * moved).sum())
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-4), name


def test_what_does_not_fit_is_refused(pair):
    _, ours, _, _ = pair
    state = ours.state()
    for wrong in (
        {name: array for name, array in state.items() if name != "head.bias"},
        dict(state, extra=np.zeros(1, np.float32)),
        dict(state, **{"head.bias": np.zeros(CLASSES + 1, np.float32)}),
    ):
        with pytest.raises(CheckpointError, match=r"last\.safetensors does not fit this bundle \((head\.bias|extra)"):
            ours.load(wrong, "last.safetensors")


def test_statistics_are_those_of_pytorch():
    rows = np.random.RandomState(0).randn(500, 12) * np.logspace(-4, 1, 12) + np.arange(12)
    moments = rows.mean(0), np.square(rows).mean(0)
    for found, expected in zip(normalisers(*moments), statistics(*map(torch.from_numpy, moments)), strict=True):
        assert found.dtype == np.float32 and np.allclose(found, expected.numpy(), rtol=1e-7, atol=0)


def test_adamw_is_pytorch_s():
    random = np.random.RandomState(0)
    shapes = {"a": (5, 7), "b": (7,), "never": (3,), "late": (2, 2)}
    ours = {name: random.randn(*shape).astype(np.float32) for name, shape in shapes.items()}
    theirs = [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in ours.values()]
    mine = AdamW()
    stock = TorchAdamW(theirs, betas=BETAS, eps=EPSILON, weight_decay=WEIGHT_DECAY)
    for step in range(30):
        lr = 4e-3 * (1 - step / 40)
        scale = 10.0 ** random.randint(-6, 3)
        gradients = {name: (scale * random.randn(*shape)).astype(np.float32) for name, shape in shapes.items()}
        del gradients["never"]
        if step < 10:
            del gradients["late"]
        for name, parameter in zip(shapes, theirs, strict=True):
            parameter.grad = torch.from_numpy(gradients[name].copy()) if name in gradients else None
        stock.param_groups[0]["lr"] = lr
        mine.step(ours, gradients, lr)
        stock.step()
    for array, parameter in zip(ours.values(), theirs, strict=True):
        assert np.abs(array - parameter.detach().numpy()).max() <= 1e-6
    found, expected = mine.state(), optimizer_arrays(stock)
    assert found.keys() == expected.keys() == {f"{i}.{n}" for i in (0, 1, 3) for n in ("step", "exp_avg", "exp_avg_sq")}
    for name, array in expected.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype
        assert np.allclose(found[name], array, rtol=1e-5, atol=1e-9)


def test_adamw_goes_on_from_its_state_and_refuses_another_s():
    weights = {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
    gradients = {name: np.full_like(array, 0.5) for name, array in weights.items()}
    first = AdamW()
    first.step(weights, gradients, 1e-2)
    copies = {name: array.copy() for name, array in weights.items()}
    second = AdamW()
    second.load({name: array.copy() for name, array in first.state().items()}, copies, "last.safetensors")
    for optimizer, held in ((first, weights), (second, copies)):
        optimizer.step(held, gradients, 1e-2)
    assert all((weights[name] == copies[name]).all() for name in weights)
    for wrong in ({"2.step": np.float32(1).reshape(())}, {"0.exp_avg": np.zeros(4, np.float32)}):
        with pytest.raises(CheckpointError, match="optimiser of another model: use --overwrite"):
            second.load(wrong, copies, "last.safetensors")
