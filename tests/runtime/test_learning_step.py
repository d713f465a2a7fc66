"""The whole graph of a training step against PyTorch's autograd of the same network, and what is observed before."""

import numpy as np
import onnx
import pytest
import torch
from simulation.tensorrt.api import RELEASES, Api
from simulation.tensorrt.onnx_rules import refusals

from da3.export.segments import deploy
from da3.runtime.backends.reference import Program
from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.bundle.writer import write_files
from da3.runtime.errors import BundleError
from da3.runtime.images.preprocess import Preprocessing
from da3.runtime.learning import derive_observation, derive_step
from da3.runtime.learning.exit_features import ExitFeatures
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.training.config import AdaptorSpec, MemorySettings
from da3.toolchain.autograd.frozen import cell_means
from da3.toolchain.backbones import load_backbone, random_weights
from da3.toolchain.network import DomainModel, with_exits
from da3.toolchain.network.bypass import STEP
from da3.toolchain.network.loss import answers_loss

CLASSES, SMOOTHING, PHOTOS = 4, 0.1, 3
NETWORKS = [
    # backbone, width, pixels, blocks to close
    ("mobilenet_v2", 0.35, 64, ()),
    ("mobilenet_v2", 0.35, 64, (2, 8, 15)),
    ("efficientnet_lite0", 0.35, 64, ()),
    ("efficientnet_lite0", 0.35, 64, (4, 10)),
    ("resnet18", 1.0, 64, ()),
    ("resnet18", 1.0, 64, (5, 7)),
]
IDS = [f"{name}{'-closed' if closed else ''}" for name, _, _, closed in NETWORKS]


def network(arch, width, size, closed=(), exits=True):
    """A network of random weights whose every parameter does something."""
    torch.manual_seed(0)
    backbone = load_backbone(arch, random_weights(arch, width))
    spec = AdaptorSpec.of(arch)
    spec = with_exits(spec, backbone, size) if exits else spec
    exact = MemorySettings(keep_precision="fp32")
    model = DomainModel(backbone, spec, size=size, classes=CLASSES, may_close=True, memory=exact)
    model.fit_normalisation(lambda: [torch.randn(4, 3, size, size)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    for block in closed:
        model.close(block)
    return model


def deployed(model):
    return deploy(model, Preprocessing(model.size, 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def batch(size, photos=PHOTOS):
    rng = np.random.RandomState(1)
    return rng.normal(0, 1, (photos, 3, size, size)), rng.randint(0, CLASSES, photos)


def feeds(step, tensors, image, labels, scale):
    target = (1 - SMOOTHING) * np.eye(CLASSES)[labels] + SMOOTHING / CLASSES
    given = {"image": image, "target": target, "scale": np.full((len(image), 1), scale)}
    given.update({"domain:" + name: tensor for name, tensor in tensors.items()})
    return {info.name: given[info.name] for info in step.model.inputs}


def run_in_double(model, given):
    double = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in model.weights.items()}
    program = Program(model.replace(weights=double), "step")
    found = program.run([given[info.name].astype(np.float64) for info in model.inputs])
    return dict(zip((info.name for info in model.outputs), found, strict=True))


def run_on_onnxruntime(model, given):
    session = open_session(write_model(model))
    found = session.run(None, {name: array.astype(np.float32) for name, array in given.items()})
    return dict(zip((info.name for info in model.outputs), found, strict=True))


def torch_gradients(model, image, labels, tensors):
    """Loss, logits, and the gradient of each of the tensors that the network is made to be of."""
    model.double()
    model.load_domain_tensors({name: torch.from_numpy(array) for name, array in tensors.items()})
    model.train()
    output = model(torch.from_numpy(image))
    loss = answers_loss(output.logits, output.exits, torch.from_numpy(labels), SMOOTHING) / len(labels)
    loss.backward()
    found = {}
    for name, tensor in model.named_parameters():
        if tensor.grad is not None:
            found[name.replace(".head.", ".") if name.startswith("exits") else name] = tensor.grad.numpy()
    for name in [name for name in found if name.endswith(".down") and not name.startswith("adaptors")]:
        found[name], found[name[:-4] + "around"] = np.split(found[name], 2, 1)
    for owner in {name.rpartition(".")[0] for name in found if name.startswith("substitutes")}:
        # A bypass's parameters are in units of their own, and its bundle's first bias is put into the second when read.
        for name in ("down", "around", "up", "up_bias"):
            found[f"{owner}.{name}"] /= STEP
        up_bias = found[owner + ".up_bias"]
        found[owner + ".down_bias"] = tensors[owner + ".up"].T @ up_bias
        found[owner + ".up"] += np.outer(up_bias, tensors[owner + ".down_bias"])
    return float(loss.detach()), output.logits.detach().numpy(), found


def double_tensors(model):
    return {name: tensor.numpy().astype(np.float64) for name, tensor in model.domain_tensors().items()}


@pytest.mark.parametrize("case", NETWORKS, ids=IDS)
def test_gradients_are_those_of_autograd(case):
    """In float64, where no activation is on the other side of its limit for another order of summation."""
    _, _, size, closed = case
    model = network(*case)
    step = derive_step(deployed(model), CLASSES, closed)
    onnx.checker.check_model(write_model(step.model), full_check=True)
    tensors, (image, labels) = double_tensors(model), batch(size)
    assert set(step.trained) == {name for name in tensors if not name.endswith(".mean")}
    found = run_in_double(step.model, feeds(step, tensors, image, labels, 1 / PHOTOS))
    loss, logits, expected = torch_gradients(model, image, labels, tensors)
    assert found["loss"].shape == (1,) and abs(found["loss"][0] - loss) <= 1e-6 * loss
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-6, atol=1e-6)
    for name in step.trained:
        gradient, wanted = found["gradient:" + name], expected[name]
        assert gradient.shape == wanted.shape and np.abs(wanted).max() > 0
        assert np.abs(gradient - wanted).max() <= 2e-6 * np.abs(wanted).max(), name


@pytest.mark.parametrize("case", NETWORKS[:2] + NETWORKS[4:5], ids=["mobilenet_v2", "closed", "resnet18"])
def test_onnxruntime_gives_them_in_single_precision(case):
    """To 1e-3 of a tensor's largest, for all but a twentieth of its numbers: an activation may round across a limit."""
    _, _, size, closed = case
    model = network(*case)
    step = derive_step(deployed(model), CLASSES, closed)
    tensors, (image, labels) = double_tensors(model), batch(size)
    given = feeds(step, tensors, image, labels, 1 / PHOTOS)
    exact, found = run_in_double(step.model, given), run_on_onnxruntime(step.model, given)
    for name, value in found.items():
        assert value.dtype == np.float32 and value.shape == exact[name].shape
        errors = np.abs(value - exact[name]) / np.abs(exact[name]).max()
        assert np.percentile(errors, 95) <= 1e-3 and errors.max() <= 0.1, name


def test_slices_add_up():
    model = network(*NETWORKS[0][:3])
    step = derive_step(deployed(model), CLASSES)
    tensors, (image, labels) = double_tensors(model), batch(64, 4)
    whole = run_in_double(step.model, feeds(step, tensors, image, labels, 1 / 4))
    parts = [run_in_double(step.model, feeds(step, tensors, image[r], labels[r], 1 / 4)) for r in ([0], [1, 2, 3])]
    np.testing.assert_allclose(np.concatenate([part["logits"] for part in parts]), whole["logits"], rtol=1e-9)
    for name in ["loss", *("gradient:" + name for name in step.trained)]:
        np.testing.assert_allclose(sum(part[name] for part in parts), whole[name], rtol=1e-8, atol=1e-10)


def test_a_domain_without_exits():
    model = network("mobilenet_v2", 0.35, 64, exits=False)
    step = derive_step(deployed(model), CLASSES)
    tensors, (image, labels) = double_tensors(model), batch(64)
    found = run_in_double(step.model, feeds(step, tensors, image, labels, 1 / PHOTOS))
    loss, _, expected = torch_gradients(model, image, labels, tensors)
    assert abs(found["loss"][0] - loss) <= 1e-6 * loss
    for name in step.trained:
        assert np.abs(found["gradient:" + name] - expected[name]).max() <= 2e-6 * np.abs(expected[name]).max()


def test_what_the_graph_is_made_of():
    """Nothing that engines are slow at or refuse, no control flow, and nothing but float32 at its borders."""
    step = derive_step(deployed(network(*NETWORKS[2])), CLASSES)
    operators = {node.op for node in step.model.nodes}
    assert operators.isdisjoint({"ConvTranspose", "If", "Loop", "Scan", "Where", "Expand"})
    assert step.model.opsets == {"": 13}
    assert {info.dtype for info in step.model.inputs + step.model.outputs} == {np.dtype(np.float32)}
    names = [info.name for info in step.model.inputs]
    assert names[:3] == ["image", "target", "scale"] and all(name.startswith("domain:") for name in names[3:])
    assert [info.name for info in step.model.outputs] == ["loss", "logits", *("gradient:" + n for n in step.trained)]


@pytest.mark.parametrize("case", NETWORKS[1:6:2], ids=IDS[1:6:2])
def test_every_tensorrt_takes_it(case):
    deployment, closed = deployed(network(*case)), case[-1]
    for model in (derive_step(deployment, CLASSES, closed).model, derive_observation(deployment)):
        written = onnx.ModelProto.FromString(write_model(model))
        assert [(release, refusals(written, Api(release))) for release in RELEASES] == [(r, []) for r in RELEASES]


def test_nothing_goes_back_before_the_first_adaptor():
    """A ResNet's first blocks have none: what is transposed are the kernels of the branches behind, and no others."""
    model = network(*NETWORKS[4])
    step = derive_step(deployed(model), CLASSES)
    read = {name for node in step.model.nodes for name in node.inputs if name.startswith("transposed/")}
    transposed = sum(step.model.weights[name].size for name in read)
    assert transposed == sum(
        c.weight.numel() for b in model.backbone.blocks[model.spec.first + 1 :] for c in b.every_conv
    )


@pytest.mark.parametrize("case", NETWORKS[::2], ids=IDS[::2])
@torch.no_grad()
def test_observation(case):
    _, _, size, _ = case
    model = network(*case)
    deployment = deployed(model)
    observed = derive_observation(deployment)
    onnx.checker.check_model(write_model(observed), full_check=True)
    tensors, (image, _) = double_tensors(model), batch(size)
    given = {"domain:" + name: tensor for name, tensor in tensors.items()}
    given["image"] = image
    found = run_on_onnxruntime(observed, {info.name: given[info.name] for info in observed.inputs})
    values = {}
    model.eval()(torch.from_numpy(image.astype(np.float32)), values)
    count = len(model.backbone.blocks)
    sides = {i: model.adaptor(i).side for i in range(model.spec.first, count)}
    sides[count] = sides[count - 1]
    expected = {f"p{i}": cell_means(values[f"x{i}"], side).flatten(0, 1) for i, side in sides.items()}
    expected["features"] = values["features"]
    assert found.keys() == expected.keys()
    single = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    exits = ExitFeatures(deployment)
    for i in model.spec.exits:
        cells = found[f"p{i + 1}"].reshape(len(image), sides[i + 1], sides[i + 1], -1).transpose(0, 3, 1, 2)
        found[f"e{i}"], expected[f"e{i}"] = exits(i, cells, single), values[f"e{i}"]
    for name, value in expected.items():
        assert np.abs(found[name] - value.numpy()).max() <= 1e-4 * value.abs().max(), name


def test_a_bundle_with_gates_is_refused(built):
    with Bundle(built[0]) as bundle, pytest.raises(BundleError, match="is of format 1, with gates"):
        derive_step(bundle, CLASSES)


STEP_ON_OLD_PYTHON = """
import sys
import numpy as np
from da3.runtime.backends.reference import Program
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.learning import derive_observation, derive_step
from da3.runtime.onnx_graph.writing import write_model

with Bundle(sys.argv[1]) as bundle:
    step, observed = derive_step(bundle, 4, (2, 8)).model, derive_observation(bundle)
for name, model in (("step", step), ("observed", observed)):
    with open("%s/%s.onnx" % (sys.argv[2], name), "wb") as file:
        file.write(write_model(model))
with np.load(sys.argv[2] + "/in.npz") as given:
    found = Program(step, "step").run([given[info.name] for info in step.inputs])
np.savez(sys.argv[2] + "/out.npz", **dict(zip([info.name for info in step.outputs], found)))
"""


def test_python_36_derives_the_same_graph_and_runs_it(call, python36, tmp_path):
    model = network("mobilenet_v2", 0.35, 64, (2, 8))
    deployment = deployed(model)
    write_files(tmp_path / "bundle", deployment.every_file())
    step = derive_step(deployment, CLASSES, (2, 8))
    image, labels = batch(64, 2)
    given = feeds(step, double_tensors(model), image, labels, 1 / 2)
    np.savez(tmp_path / "in.npz", **{name: array.astype(np.float32) for name, array in given.items()})
    done = call("-c", STEP_ON_OLD_PYTHON, tmp_path / "bundle", tmp_path, python=python36)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "step.onnx").read_bytes() == write_model(step.model)
    assert (tmp_path / "observed.onnx").read_bytes() == write_model(derive_observation(deployment))
    exact = run_in_double(step.model, given)
    with np.load(tmp_path / "out.npz") as out:
        assert set(out.files) == set(exact)
        for name, value in exact.items():
            errors = np.abs(out[name] - value) / np.abs(value).max()
            assert np.percentile(errors, 95) <= 1e-3 and errors.max() <= 0.1, name
