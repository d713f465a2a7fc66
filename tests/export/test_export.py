"""Every backbone exports to a bundle that computes what PyTorch does; bundles grow without changing."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from da3.export import exporter
from da3.export.errors import ExportError
from da3.export.exporter import export_domain, export_standalone
from da3.export.verify import Check, relative_error, require
from da3.runtime import Da3Error, Runtime
from da3.runtime.backends.sessions import open_session
from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.bundle.packs import add_pack, write_pack
from da3.runtime.training.checkpoint import read
from da3.toolchain.backbones import NAMES
from da3.toolchain.errors import CheckpointError
from da3.toolchain.methods import METHODS
from da3.toolchain.network.gating import Gating
from da3.toolchain.training import checkpoint as ckpt
from da3.toolchain.training.checkpoint import BackboneStore, learner_of
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

OPSET = 13
# The deeper EfficientNet-Lites differ from the first in numbers alone.
ARCHS = [name for name in NAMES if name not in ("efficientnet_lite1", "efficientnet_lite2")]


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def scatter_gates(path):
    """Give a checkpoint's gates random weights, so that they decide differently from photo to photo."""
    found = read(path)
    weights = BackboneStore(path.parents[1]).get(found.config.backbone, found.config.weights_sha256)
    learner = learner_of(found, weights)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        images = torch.randn(16, 3, found.config.size, found.config.size, generator=generator)
        for i, adaptor in ((int(k), a) for k, a in learner.model.adaptors.items()):
            if adaptor.gate is None:
                continue
            adaptor.gate.normal_(generator=generator)
            values = {}
            learner.model.gating = Gating.hard()
            learner.model(images, values)
            logits = values[f"g{i + 1}"]
            scale = 1 / max(float(logits.std()), 1e-6)
            adaptor.gate_bias.sub_(logits.median()).mul_(scale)
            adaptor.gate.mul_(scale)
    ckpt.write(path, found.config, found.progress, learner, None)


@pytest.fixture
def trained(small_run):
    """A function that trains a domain for seconds and returns its runs folder."""

    def make(domain="signs", **changes):
        result = train(small_run(domain, **changes), SilentReporter())
        if changes.get("keep", 1) < 1:
            scatter_gates(result.folder / "best.safetensors")
        return result.folder.parent

    return make


@pytest.mark.parametrize("arch", ARCHS)
def test_export_equals_torch(arch, trained, tmp_path):
    runs = trained(backbone=arch, keep=0.9, epochs=1, size=64)
    done = export_domain("signs", runs, tmp_path / "bundle")
    assert done.what == "a new bundle" and all(check.error <= 1e-4 for check in done.checks)
    bundle = Bundle(done.path)
    bundle.verify()
    domain = read_domain(bundle, "signs")
    assert domain.gated and domain.classes == ("class0", "class1", "class2")
    assert domain.metrics["flops_share"] <= 1
    names = [c.name for c in done.checks]
    gateable = sum(step.gate is not None for step in bundle.manifest.plan)
    assert sum(name.startswith("skip_") for name in names) == gateable > 0
    assert names[-2:] == ["end to end, one batch", "end to end, one by one"]
    # And once more from outside: other images, other batch sizes, the model rebuilt from what is stored.
    found = read(runs / "signs" / "best.safetensors")
    weights = BackboneStore(runs).get(arch, found.config.weights_sha256)
    model = learner_of(found, weights).model
    model.load_domain_tensors({k: torch.from_numpy(v) for k, v in domain.weights.items()})
    images = np.random.default_rng(1).normal(size=(6, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images))
    assert float((expected.gates == 0).sum()) > 0, "the gates must close sometimes"
    with Runtime(done.path) as runtime:
        for batch in (1, 4, 6):
            found_logits = [runtime.run_batch(images[i : i + batch], "signs") for i in range(0, 6, batch)]
            assert (np.concatenate([r.blocks for r in found_logits]) == (expected.gates.numpy() > 0.5)).all()
            assert relative_error(np.concatenate([r.logits for r in found_logits]), expected.logits.numpy()) < 1e-4
        shares = [p.flops_share for p in runtime.predictions(runtime.run_batch(images, "signs"))]
    assert shares == pytest.approx(expected.share.tolist(), abs=1e-6)


def test_files_are_what_the_format_says(trained, tmp_path):
    done = export_domain("signs", trained(), tmp_path / "bundle")
    manifest = json.loads((done.path / "manifest.json").read_text())
    on_disk = {p for p in hashes(done.path) if p.startswith(("backbone/", "adaptors/"))}
    assert on_disk == set(manifest["files"]) == {s["file"] for s in manifest["segments"].values()}
    assert not (done.path / "engines").exists(), "what the verification made for this machine was shipped"
    for name in on_disk:
        model = onnx.load(done.path / name)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
        assert model.ir_version == 7
        for value in [*model.graph.input, *model.graph.output]:
            batch = value.type.tensor_type.shape.dim[0]
            if value.name in ("x", "y", "a", "logit", "image", "features", "logits"):
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
                "Sub",
                "Gemm",
            }
    assert {p for p in hashes(done.path) if p.startswith("domains/")} == {
        "domains/signs/domain.json",
        "domains/signs/weights.safetensors",
    }
    # Adaptors of equal shape share a file.
    adaptors = [s["segment"] for s in manifest["plan"] if s["segment"].startswith("adaptor")]
    assert len(set(adaptors)) < len(adaptors) == 17


def test_second_domain_adds_only_its_own_files(trained, tmp_path):
    runs = trained("signs")
    export_domain("signs", runs, tmp_path / "bundle")
    before = hashes(tmp_path / "bundle")
    trained("letters", seed=5)
    done = export_domain("letters", runs, tmp_path / "bundle")
    after = hashes(tmp_path / "bundle")
    assert done.what == "a domain into the bundle"
    assert {k: v for k, v in after.items() if not k.startswith("domains/letters/")} == before
    assert len(after) == len(before) + 2
    # Exporting again gives the same bytes, here and in a bundle of its own.
    export_domain("letters", runs, tmp_path / "bundle")
    assert hashes(tmp_path / "bundle") == after
    export_domain("signs", runs, tmp_path / "other")
    export_domain("letters", runs, tmp_path / "other")
    assert hashes(tmp_path / "other") == after


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_verification_leaves_nothing(existing, trained, tmp_path, monkeypatch):
    """What is written is not what was trained: one weight of one segment is off."""
    runs = trained()
    if existing:
        export_domain("signs", runs, tmp_path / "bundle")
        trained("letters")
    before = hashes(tmp_path)
    real = exporter.domain_files

    def wrong(domain):
        bad = {k: v.copy() for k, v in domain.weights.items()}
        bad["adaptors.3.up_bias"] += 1.0
        return real(domain._replace(weights=bad))

    monkeypatch.setattr(exporter, "domain_files", wrong)
    with pytest.raises(ExportError, match=r"verification failed.*nothing was written"):
        export_domain("letters" if existing else "signs", runs, tmp_path / "bundle")
    assert hashes(tmp_path) == before
    assert (tmp_path / "bundle").exists() == existing


def test_wrong_gates_fail_verification(trained, tmp_path, monkeypatch):
    runs = trained(keep=0.9)
    real = exporter.domain_files

    def wrong(domain):
        bad = {k: -v if ".gate" in k else v for k, v in domain.weights.items()}
        return real(domain._replace(weights=bad))

    monkeypatch.setattr(exporter, "domain_files", wrong)
    with pytest.raises(ExportError, match="verification failed"):
        export_domain("signs", runs, tmp_path / "bundle")


def test_require_names_the_worst():
    with pytest.raises(ExportError, match=r"1 of 2 checks; worst: block_01 \(x\), relative error 3\.0e-02"):
        require([Check("stem", 1e-7), Check("block_01", 0.03, "x")])
    with pytest.raises(ExportError):
        require([Check("end", 0.0, "gates DIFFER", same=False)])
    require([Check("stem", 1e-7)])


@pytest.mark.parametrize("change", [{"size": 64}, {"backbone": "resnet18"}])
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
def test_standalone_of_a_gated_domain_answers_as_the_bundle(arch, trained, tmp_path):
    runs = trained(backbone=arch, keep=0.9, epochs=1, size=64)
    path = export_standalone("signs", runs, tmp_path / "signs.onnx").path
    export_domain("signs", runs, tmp_path / "bundle")
    images = np.random.default_rng(2).normal(size=(6, 3, 64, 64)).astype(np.float32)
    (logits,) = open_session(str(path)).run(["logits"], {"image": images})
    with Runtime(tmp_path / "bundle") as runtime:
        found = runtime.run_batch(images, "signs")
        every = runtime.run_batch(images, "signs", force_all_blocks=True).logits
    assert not found.blocks.all() and relative_error(every, found.logits) > 0.01
    assert relative_error(logits, found.logits) < 1e-4


@pytest.mark.parametrize("method", METHODS)
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
    with pytest.raises(ExportError, match="no finished model yet.*--resume"):
        export_domain("signs", runs, tmp_path / "bundle")
    shutil.rmtree(runs / "backbones")
    (runs / "signs" / "last.safetensors").rename(runs / "signs" / "best.safetensors")
    with pytest.raises(CheckpointError, match="copy the runs folder whole"):
        export_domain("signs", runs, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
