"""Every backbone exports to a bundle that computes what PyTorch does; bundles grow without changing."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from da3.export import exporter
from da3.export.checks import TOLERANCE
from da3.export.errors import ExportError
from da3.export.exporter import export_domain, export_standalone
from da3.export.verify import Check, Decided, relative_error, require
from da3.runtime import Da3Error, Runtime
from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.bundle.format import BACKBONE_GOLDENS
from da3.runtime.bundle.packs import add_pack, remove_domain, write_pack
from da3.runtime.calibration import confidence
from da3.runtime.selftest import network_images, parse_goldens
from da3.runtime.training import AdaptorSpec
from da3.runtime.training.checkpoint import read
from da3.toolchain.backbones import NAMES
from da3.toolchain.errors import CheckpointError
from da3.toolchain.methods import METHODS
from da3.toolchain.network import fit_bypasses, open_blocks
from da3.toolchain.training import checkpoint as ckpt
from da3.toolchain.training.checkpoint import BackboneStore, learner_of
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

OPSET = 13
# EfficientNet-Lites have the blocks of MobileNetV2, and ResNet-34 those of ResNet-18; a ResNet-50 takes its time.
_LIKE_ANOTHER = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet34", "resnet50")
ARCHS = [pytest.param(n, marks=pytest.mark.slow if n in _LIKE_ANOTHER else ()) for n in NAMES]


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def noise(size):
    """Images that are no photos, of unlike contrast: float32 (16, 3, size, size)."""
    contrast = np.linspace(0.2, 3, 16).reshape(-1, 1, 1, 1)
    return (contrast * np.random.default_rng(0).normal(size=(16, 3, size, size))).astype(np.float32)


def decide(path):
    """Give a checkpoint closed blocks, fitted bypasses, and exits at which some of ``noise`` leaves."""
    found = read(path)
    weights = BackboneStore(path.parents[1]).get(found.config.backbone, found.config.weights_sha256)
    learner = learner_of(found, weights)
    model = learner.model
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(noise(found.config.size))
    model.closed.zero_()
    fit_bypasses(model, [images])
    with torch.no_grad():
        for block in open_blocks(model)[1::2]:
            model.close(block)
        for head in (model.head, *(exit.head for exit in model.exits.values())):
            head.weight.normal_(0, 0.05, generator=generator)
        answers = model(images).answers.numpy()
    rules = []
    for number in range(answers.shape[1] - 1):
        temperature = 1.0 + number / 4
        sure = np.sort(confidence(answers[:, number], temperature))
        middle = sure[2:-2]
        gap = int(np.argmax(np.diff(middle)))  # rounding decides nothing there
        rules.append({"threshold": float(middle[gap : gap + 2].mean()), "temperature": temperature})
    found.progress.calibration = {"exits": rules, "temperature": 1.5, "calibration": {"photos": 16}}
    ckpt.write(path, found.config, found.progress, learner, None)


@pytest.fixture(scope="module")
def trained_before():
    """What tests of this file have trained, by what was asked for: the same would come of it again."""
    return {}


@pytest.fixture
def trained(small_run, trained_before, tmp_path, tmp_path_factory):
    """A function that trains a domain for seconds and returns its runs folder, which is the test's own."""

    def make(domain="signs", **changes):
        asked = (domain, *sorted(changes.items()), adaptor_spec_of_runs())
        if asked not in trained_before:
            result = train(small_run(domain, **changes, runs=tmp_path_factory.mktemp("trained")), SilentReporter())
            if changes.get("keep", 1) < 1:
                decide(result.folder / "best.safetensors")
            trained_before[asked] = result.folder.parent
        return Path(shutil.copytree(trained_before[asked], tmp_path / "runs", dirs_exist_ok=True))

    return make


def adaptor_spec_of_runs():
    """What decides a run's adaptors and exits: a fixture puts another in its place."""
    return sys.modules[TrainOptions.__module__].adaptor_spec


@pytest.mark.parametrize("arch", ARCHS)
def test_export_equals_torch(arch, trained, tmp_path):
    runs = trained(backbone=arch, keep=0.54, epochs=1, size=64)
    done = export_domain("signs", runs, tmp_path / "bundle")
    assert done.what == "a new bundle" and all(check.error <= 1e-4 for check in done.checks)
    bundle = Bundle(done.path)
    bundle.verify()
    assert bundle.manifest.format == 2
    domain = read_domain(bundle, "signs")
    assert domain.classes == ("class0", "class1", "class2") and domain.closed and not domain.gated
    found = read(runs / "signs" / "best.safetensors")
    exits = found.config.adaptor.exits
    assert len(domain.exits) == len(exits) > 0
    assert domain.temperature == 1.5 and domain.calibration == {"photos": 16}
    assert domain.adaptor == bundle.manifest.adaptor == found.config.adaptor.to_json()
    names = [c.name for c in done.checks]
    assert names[-2:] == ["end to end, one batch", "end to end, one by one"] and "all blocks on" in names
    assert [n for n in names if n.startswith("all leave")] == [f"all leave behind block {i}" for i in exits]
    assert sum(name.startswith("skip_") for name in names) >= len(domain.closed)
    # And once more from outside: other images, other batch sizes, the model rebuilt from what is stored.
    weights = BackboneStore(runs).get(arch, found.config.weights_sha256)
    model = learner_of(found, weights).model
    assert model.closed_blocks == domain.closed
    model.load_domain_tensors({k: torch.from_numpy(v) for k, v in domain.weights.items()})
    images = noise(64)
    with torch.no_grad():
        answers = model(torch.from_numpy(images)).answers.numpy()
    expected = Decided.of(answers, domain, TOLERANCE)
    images, expected = images[expected.sure], Decided(*(part[expected.sure] for part in expected))
    assert len(images) > 3 and len(set(expected.left.tolist())) > 1, "some leave, and not all at one exit"
    with Runtime(done.path) as runtime:
        for batch in (1, 4, 16):
            results = [runtime.run_batch(images[i : i + batch], "signs") for i in range(0, len(images), batch)]
            assert (np.concatenate([r.left for r in results]) == expected.left).all()
            assert relative_error(np.concatenate([r.logits for r in results]), expected.logits) < 1e-4
        predictions = runtime.predictions(runtime.run_batch(images, "signs"))
    assert [p.flops_share for p in predictions] == pytest.approx([model.answer_costs[i] for i in expected.left])
    assert not any(p.blocks[i] for p in predictions for i in domain.closed)


def test_files_are_what_the_format_says(trained, tmp_path):
    done = export_domain("signs", trained(), tmp_path / "bundle")
    manifest = json.loads((done.path / "manifest.json").read_text())
    on_disk = {p for p in hashes(done.path) if p.startswith(("backbone/", "adaptors/"))}
    assert on_disk == set(manifest["files"])
    assert on_disk == {s["file"] for s in manifest["segments"].values()} | {BACKBONE_GOLDENS}
    assert not (done.path / "engines").exists(), "what the verification made for this machine was shipped"
    for name in on_disk - {BACKBONE_GOLDENS}:
        model = onnx.load(done.path / name)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        assert model.ir_version == 7
        for value in [*model.graph.input, *model.graph.output]:
            batch = value.type.tensor_type.shape.dim[0]
            if value.name in ("x", "y", "a", "image", "features", "logits", "before"):
                assert batch.dim_param == "batch"
        if name.startswith("adaptors/"):  # weights are inputs: what is inside is only shapes and scales
            assert sum(np.prod(w.dims) for w in model.graph.initializer) <= 20
            assert {n.op_type for n in model.graph.node} <= {
                "AveragePool",
                "Transpose",
                "Reshape",
                "MatMul",
                "Add",
                "Relu",
                "ReduceMean",
                "ReduceMax",
                "Concat",
                "Mul",
                "Sub",
                "Gemm",
            }
    assert {p for p in hashes(done.path) if p.startswith("domains/")} == {
        "domains/signs/domain.json",
        "domains/signs/goldens.safetensors",
        "domains/signs/weights.safetensors",
    }
    # Adaptors of equal shape share a file.
    adaptors = [s["segment"] for s in manifest["plan"] if s["segment"].startswith("adaptor")]
    assert len(set(adaptors)) < len(adaptors) == 17
    # An exit is two steps behind its block, and reads what the next adaptor reads.
    steps = {step["outputs"][0]: step for step in manifest["plan"]}
    exits = manifest["adaptor"]["exits"]
    assert [name for name, step in steps.items() if step.get("exit")] == [f"logits{i}" for i in exits]
    order = list(steps)
    for i, before in zip(exits, [None, *exits], strict=False):
        assert order.index(f"x{i + 1}") + 2 == order.index(f"logits{i}") < order.index(f"a{i + 1}")
        maps = [f"domain:exits.{i}.{name}" for name in ("down", "around", "down_bias")]
        assert steps[f"e{i}"]["inputs"] == [f"x{i + 1}", *maps]
        carried = [] if before is None else [f"logits{before}"]
        assert steps[f"logits{i}"]["segment"] == f"classifier_256{'_carry' if carried else ''}"
        owned = [f"domain:exits.{i}.{name}" for name in ("mean", "weight", "bias")]
        assert steps[f"logits{i}"]["inputs"] == [f"e{i}", *owned, *carried]
    assert steps["logits"]["segment"] == "head_carry" and steps["logits"]["inputs"][-1] == f"logits{exits[-1]}"


def test_a_bundle_that_appeared_meanwhile(tmp_path):
    """As with two exports at once, which both find none."""
    for name in ("fresh", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
    assert exporter.appeared(tmp_path / "fresh", tmp_path / "bundle")
    assert not exporter.appeared(tmp_path / "other", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "manifest.json").read_text() == "fresh" and (tmp_path / "other").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        exporter.appeared(tmp_path / "other", tmp_path / "file")


@pytest.mark.slow
def test_another_export_makes_the_bundle_first(trained, tmp_path, monkeypatch):
    runs = trained()
    whole = export_domain("signs", runs, tmp_path / "whole").path
    real = exporter.appeared

    def slower(fresh, place):
        if not place.exists():
            shutil.copytree(whole, place)
            remove_domain(place, "signs")
        return real(fresh, place)

    monkeypatch.setattr(exporter, "appeared", slower)
    done = export_domain("signs", runs, tmp_path / "bundle")
    assert done.what == "a domain into the bundle"
    found = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.name != "engines") for f in (whole, done.path)]
    assert found[0] == found[1]
    with Bundle(done.path) as bundle:
        bundle.verify()
        assert bundle.domains == ["signs"]


def test_a_finished_run_whose_best_is_gone(trained, tmp_path):
    runs = trained()
    (runs / "signs" / "best.safetensors").unlink()
    with pytest.raises(ExportError, match="best.safetensors is gone: train again with .* --overwrite, then export"):
        export_domain("signs", runs, tmp_path / "bundle")


def test_second_domain_adds_only_its_own_files(trained, tmp_path):
    runs = trained("signs")
    export_domain("signs", runs, tmp_path / "bundle")
    before = hashes(tmp_path / "bundle")
    trained("letters", seed=5)
    done = export_domain("letters", runs, tmp_path / "bundle")
    after = hashes(tmp_path / "bundle")
    assert done.what == "a domain into the bundle"
    assert {k: v for k, v in after.items() if not k.startswith("domains/letters/")} == before
    assert len(after) == len(before) + 3
    # Exporting again gives the same bytes, here and in a bundle of its own.
    export_domain("letters", runs, tmp_path / "bundle")
    assert hashes(tmp_path / "bundle") == after
    export_domain("signs", runs, tmp_path / "other")
    export_domain("letters", runs, tmp_path / "other")
    assert hashes(tmp_path / "other") == after


def test_golden_values_are_those_of_torch(trained, tmp_path, monkeypatch):
    """A domain's file of them is small, holds what its network answers, and is not written where PyTorch disagrees."""
    runs = trained(keep=0.54)
    done = export_domain("signs", runs, tmp_path / "bundle")
    assert done.checks[0].name == "golden values" and done.checks[0].error < 1e-5
    data = (done.path / "domains" / "signs" / "goldens.safetensors").read_bytes()
    goldens = parse_goldens(data, "x")
    assert len(data) < 30_000 and len(Bundle(done.path).read(BACKBONE_GOLDENS)) < 30_000
    bundle = Bundle(done.path)
    domain = read_domain(bundle, "signs")
    assert goldens.closed == domain.closed != () and goldens.by.startswith("onnxruntime ")
    assert {f"x{i}" for i in range(17)} | {"logits5", "logits15", "logits"} <= set(goldens.chain)
    images = network_images(goldens.pictures, bundle.manifest.preprocessing)
    with Runtime(bundle) as runtime:
        for exit, name in ((0, "logits5"), (3, "logits15")):
            found = runtime.run_batch(images, "signs", leave_at=exit).logits
            assert relative_error(found, goldens.chain[name]) < 1e-4
    off = goldens._replace(chain={**goldens.chain, "x7": goldens.chain["x7"] * 1.01})
    monkeypatch.setattr(exporter, "domain_goldens", lambda bundle, record: off)
    with pytest.raises(ExportError, match=r"golden values.*x7"):
        export_domain("signs", runs, tmp_path / "other")


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_verification_leaves_nothing(existing, trained, tmp_path, monkeypatch):
    """What is written is not what was trained: one weight of one segment is off."""
    runs = trained()
    if existing:
        export_domain("signs", runs, tmp_path / "bundle")
        trained("letters")
    before = hashes(tmp_path)
    real = exporter.domain_files

    def wrong(domain, goldens):
        bad = {k: v.copy() for k, v in domain.weights.items()}
        bad["adaptors.3.up_bias"] += 1.0
        return real(domain._replace(weights=bad), goldens)

    monkeypatch.setattr(exporter, "domain_files", wrong)
    with pytest.raises(ExportError, match=r"verification failed.*nothing was written"):
        export_domain("letters" if existing else "signs", runs, tmp_path / "bundle")
    assert hashes(tmp_path) == before
    assert (tmp_path / "bundle").exists() == existing


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda d: d._replace(closed=d.closed[:-1]), marks=pytest.mark.slow),
        lambda d: d._replace(exits=tuple(rule._replace(threshold=0.0) for rule in d.exits)),
        lambda d: d._replace(weights={k: v + 1 if k == "exits.9.bias" else v for k, v in d.weights.items()}),
    ],
)
def test_wrong_decisions_fail_verification(wrong, trained, tmp_path, monkeypatch):
    runs = trained(keep=0.54)
    real = exporter.domain_files
    monkeypatch.setattr(exporter, "domain_files", lambda domain, goldens: real(wrong(domain), goldens))
    with pytest.raises(ExportError, match="verification failed"):
        export_domain("signs", runs, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_domains_with_and_without_decisions_share_a_bundle(trained, tmp_path):
    """The plan is the same whatever a domain closes, and wherever its photos leave."""
    runs = trained("signs", keep=0.54)
    trained("letters")
    export_domain("letters", runs, tmp_path / "bundle")
    before = hashes(tmp_path / "bundle")
    export_domain("signs", runs, tmp_path / "bundle")
    assert before.items() <= hashes(tmp_path / "bundle").items()
    bundle = Bundle(tmp_path / "bundle")
    signs, letters = (read_domain(bundle, name) for name in ("signs", "letters"))
    assert signs.closed and not letters.closed
    assert {rule.threshold for rule in letters.exits} == {None} and len(letters.exits) == 4


@pytest.fixture
def no_exits(monkeypatch):
    """Runs have none, as those of older checkpoints had none."""
    module = sys.modules[TrainOptions.__module__]
    monkeypatch.setattr(module, "adaptor_spec", _without_exits)


def _without_exits(arch, weights, size):
    return AdaptorSpec.of(arch)


def test_a_checkpoint_without_exits_exports(trained, tmp_path, no_exits):
    runs = trained("old")
    path = runs / "old" / "best.safetensors"
    export_domain("old", runs, tmp_path / "bundle")
    before = hashes(tmp_path / "bundle")
    rewrite_as_format_2(path)
    export_domain("old", runs, tmp_path / "bundle")
    after = hashes(tmp_path / "bundle")
    for found in (before, after):
        del found["domains/old/domain.json"]  # an old checkpoint does not say where it comes from
    assert after == before
    domain = read_domain(Bundle(tmp_path / "bundle"), "old")
    assert domain.exits == domain.closed == () and "exits" not in domain.adaptor
    export_standalone("old", runs, tmp_path / "old.onnx")


def test_a_gated_checkpoint_is_refused(trained, tmp_path, no_exits):
    runs = trained("old")
    rewrite_as_format_2(runs / "old" / "best.safetensors", keep=0.7)
    for export in (export_domain, export_standalone):
        with pytest.raises(CheckpointError, match=r"trained by an older da3 .*train again") as caught:
            export("old", runs, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def rewrite_as_format_2(path, keep=1.0):
    """Make of a checkpoint without exits what da3 wrote before: gates beside adaptors."""
    found, tensors = read(path), load_file(path)
    for name, value in list(tensors.items()):
        if name.startswith("model.adaptors.") and name.endswith(".down_bias"):
            tensors[name.replace("down_bias", "gate")] = torch.zeros_like(value)
            tensors[name.replace("down_bias", "gate_bias")] = torch.tensor(2.0)
    tensors["model.running_share"] = torch.tensor(1.0)
    config = found.config._replace(keep=keep).to_json()
    progress = found.progress.to_json()
    del progress["calibration"]
    save_file(tensors, path, {"da3": json.dumps({"format": 2, "config": config, "progress": progress})})


def test_require_names_the_worst():
    with pytest.raises(ExportError, match=r"1 of 2 checks; worst: block_01 \(x\), relative error 3\.0e-02"):
        require([Check("stem", 1e-7), Check("block_01", 0.03, "x")])
    with pytest.raises(ExportError):
        require([Check("end", 0.0, "exits DIFFER", same=False)])
    require([Check("stem", 1e-7)])


@pytest.mark.parametrize("change", [{"size": 64}, pytest.param({"backbone": "resnet18"}, marks=pytest.mark.slow)])
def test_another_backbone_is_refused(change, trained, tmp_path):
    runs = trained("signs")
    export_domain("signs", runs, tmp_path / "bundle")
    before = hashes(tmp_path / "bundle")
    trained("letters", **change)
    with pytest.raises(Da3Error, match="letters"):
        export_domain("letters", runs, tmp_path / "bundle")
    export_domain("letters", runs, tmp_path / "other")
    pack = write_pack(tmp_path / "other", "letters", tmp_path)
    with pytest.raises(Da3Error, match="letters"):
        add_pack(tmp_path / "bundle", pack)
    assert hashes(tmp_path / "bundle") == before


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18"])
def test_standalone_of_a_domain_with_exits_answers_as_the_bundle(arch, trained, tmp_path):
    runs = trained(backbone=arch, keep=0.54, epochs=1, size=64)
    path = export_standalone("signs", runs, tmp_path / "signs.onnx").path
    export_domain("signs", runs, tmp_path / "bundle")
    images = np.random.default_rng(2).normal(size=(6, 3, 64, 64)).astype(np.float32)
    (logits,) = open_session(str(path)).run(["logits"], {"image": images})
    with Runtime(tmp_path / "bundle") as runtime:
        found = runtime.run_batch(images, "signs")
        every = runtime.run_batch(images, "signs", force_all_blocks=True).logits
    assert not found.blocks.all() and relative_error(every, found.logits) > 0.01
    assert relative_error(logits, found.logits) < 1e-4


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow if m in ("bias", "series") else ()) for m in METHODS]
)
def test_standalone_is_one_ordinary_model(method, trained, tmp_path):
    runs = trained(method=method)
    done = export_standalone("signs", runs, tmp_path / "signs.onnx")
    model = onnx.load(done.path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert [v.name for v in model.graph.input] == ["image"]
    assert [v.name for v in model.graph.output] == ["logits"]
    images = np.random.default_rng(2).normal(size=(5, 3, 32, 32)).astype(np.float32)
    (logits,) = open_session(str(done.path)).run(["logits"], {"image": images})
    found = read(runs / "signs" / "best.safetensors")
    learner = learner_of(found, BackboneStore(runs).get("mobilenet_v2", found.config.weights_sha256))
    with torch.no_grad():
        expected = learner.forward(torch.from_numpy(images)).logits.numpy()
    assert relative_error(logits, expected) < (2e-2 if method == "da3" else 1e-4), "da3 stores float16"
    if method == "da3":
        export_domain("signs", runs, tmp_path / "bundle")
        with Runtime(tmp_path / "bundle") as runtime:
            assert relative_error(logits, runtime.run_batch(images, "signs", force_all_blocks=True).logits) < 1e-4
    else:
        with pytest.raises(ExportError, match="only da3 domains go into a bundle.*--standalone"):
            export_domain("signs", runs, tmp_path / "bundle")


def test_what_cannot_be_exported(trained, tmp_path):
    with pytest.raises(CheckpointError, match="train the domain first"):
        export_domain("nothing", tmp_path / "runs", tmp_path / "bundle")
    runs = trained()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match=r"without manifest\.json, so no bundle"):
        export_domain("signs", runs, tmp_path / "photos")
    with pytest.raises(ExportError, match="is a file"):
        export_domain("signs", runs, tmp_path / "photos" / "a.jpg")
    (runs / "signs" / "samples.npy").write_bytes(b"no array")
    with pytest.raises(ExportError, match=r"samples\.npy is missing or damaged"):
        export_domain("signs", runs, tmp_path / "bundle")
    (runs / "signs" / "best.safetensors").unlink()
    with pytest.raises(ExportError, match=r"best\.safetensors is gone: train again .*--overwrite"):
        export_domain("signs", runs, tmp_path / "bundle")
    shutil.rmtree(runs / "backbones")
    (runs / "signs" / "last.safetensors").rename(runs / "signs" / "best.safetensors")
    with pytest.raises(CheckpointError, match="copy the runs folder whole"):
        export_domain("signs", runs, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
