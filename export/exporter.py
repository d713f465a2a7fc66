"""``da3 export``: a trained domain into a bundle, verified before anything is put in place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from da3.export.checks import TOLERANCE, Check
from da3.export.domain import DomainFacts, load_domain, plain_domain, trained_domain
from da3.export.errors import ExportError
from da3.export.golden import check_goldens, domain_goldens, with_backbone_goldens
from da3.export.graph import checked_bytes
from da3.export.segments import deploy, deploy_plain
from da3.export.verify import compare_answers, require, verify
from da3.runtime import ImageError, Runtime
from da3.runtime.app import write_run_engine
from da3.runtime.backends import open_session
from da3.runtime.bundle import MANIFEST, Bundle, add_pack, domain_files, write_files
from da3.runtime.images import NpyFile, Preprocessing
from da3.runtime.onnx_graph import whole_model
from da3.runtime.records import Array
from da3.runtime.selftest import Decided, write_goldens
from da3.runtime.system import scratch_folder, sync_folder, write_atomically
from da3.runtime.training.checkpoint import Checkpoint, read, read_facts
from da3.runtime.training.deployed import metrics
from da3.runtime.training.provenance import of_domain
from da3.toolchain.backbones import WeightsFile, preprocessing_of
from da3.toolchain.methods import Ordinary
from da3.toolchain.network import DomainModel
from da3.toolchain.training import BackboneStore, learner_of

SCRATCH = ".da3-export-"  # what folders are called after in which a bundle is made, beside where it will be


@dataclass(frozen=True)
class Exported:
    """What an export wrote at ``path``. ``what``: "a new bundle", "a domain into the bundle" or "one ONNX file".

    ``domain_bytes``: the size of the domain's own files; that of the whole file where there is one.
    """

    path: Path
    checks: list[Check]
    what: str
    domain_bytes: int


def export_domain(domain: str, runs: Path, bundle: Path) -> Exported:
    """Write ``runs/<domain>/best.safetensors`` into ``bundle``, which is made if it is not there, with the runtime
    beside it as ``run_engine.pyz``.

    Verifies before anything is moved into place; on failure nothing changes. Raises ExportError, CheckpointError,
    or a runtime error where ``bundle`` is for another backbone.
    """
    trained = _read(domain, runs)
    checkpoint = trained.checkpoint
    if checkpoint.config.method != "da3":
        raise ExportError(
            f"{checkpoint.path} was trained with --method {checkpoint.config.method}: only da3 domains go into a "
            f"bundle; use --standalone FILE.onnx"
        )
    model = learner_of(checkpoint, trained.weights).model
    assert isinstance(model, DomainModel)
    record = trained_domain(model, trained.facts, checkpoint.progress.calibration)
    load_domain(model, record)
    images = trained.images()

    bundle = Path(os.path.abspath(bundle))
    _refuse_strangers(bundle)
    bundle.parent.mkdir(parents=True, exist_ok=True)
    while True:
        new = not bundle.exists()
        with scratch_folder(str(bundle.parent), SCRATCH) as scratch:
            home = bundle
            if new:
                home = Path(scratch) / "bundle"
                write_files(home, with_backbone_goldens(deploy(model, trained.preprocessing)).every_file())
            pack = Path(scratch) / domain
            with Bundle(home, may_store=False) as opened, Runtime(opened) as runtime:
                goldens = domain_goldens(opened, record)
                files = domain_files(record, write_goldens(goldens))
                write_files(pack, files)
                checks = [check_goldens(goldens, model, trained.preprocessing)]
                checks += verify(model, record, opened, runtime, runtime.load(pack), images)
            require(checks)
            write_run_engine(home)
            add_pack(home, pack, replace=True)
            if not new or appeared(home, bundle):
                break
            # Another export made the bundle meanwhile, so this is a domain more for it: verified with its files.
    what = "a new bundle" if new else "a domain into the bundle"
    return Exported(bundle, checks, what, sum(map(len, files.values())))


def export_standalone(domain: str, runs: Path, path: Path) -> Exported:
    """Write one ordinary ONNX file of the domain, which gives the bundle's answers; verified like a bundle.

    Its input is ``image`` (batch, 3, S, S) float32, preprocessed, and its output ``logits`` (batch, classes).
    """
    trained = _read(domain, runs)
    learner = learner_of(trained.checkpoint, trained.weights)
    if isinstance(learner, Ordinary):
        backbone, head = learner.frozen()
        deployment = deploy_plain(backbone, trained.preprocessing)
        record = plain_domain(head, backbone.info, trained.preprocessing.size, trained.facts)
    else:
        assert isinstance(learner.model, DomainModel)
        deployment = deploy(learner.model, trained.preprocessing)
        record = trained_domain(learner.model, trained.facts, trained.checkpoint.progress.calibration)
        load_domain(learner.model, record)
    data = checked_bytes(whole_model(deployment, record, gated=True))
    images = trained.images()
    learner.eval_mode()
    with torch.no_grad():
        answers = learner.forward(torch.from_numpy(images)).answers.numpy()
    session = open_session(data)  # one that shares the process's thread pool with any open Runtime
    (logits,) = session.run(["logits"], {"image": images})
    check = compare_answers("end to end, one batch", Decided.of(answers, record, TOLERANCE), logits)
    require([check])
    write_atomically(path, data)
    return Exported(path, [check], "one ONNX file", len(data))


@dataclass(frozen=True)
class _Trained:
    """What a runs folder has of a domain: its best checkpoint, the backbone's weights, photos to verify with."""

    name: str
    folder: Path
    checkpoint: Checkpoint
    weights: WeightsFile

    @property
    def facts(self) -> DomainFacts:
        config, progress = self.checkpoint.config, self.checkpoint.progress
        comes_from = of_domain(config, self.checkpoint.provenance)
        return DomainFacts(self.name, config.classes, metrics(progress.best), comes_from, self.checkpoint.familiar)

    @property
    def preprocessing(self) -> Preprocessing:
        return preprocessing_of(self.checkpoint.config.size, self.weights)

    def images(self) -> Array:
        """The photos that training kept for this: (N, 3, S, S) float32, preprocessed."""
        path = self.folder / "samples.npy"
        try:
            pixels = NpyFile(str(path)).whole()
        except ImageError as error:
            raise ExportError(f"{path} is missing or damaged ({error}): train the domain again") from error
        return self.preprocessing.normalise(pixels)


def _read(domain: str, runs: Path) -> _Trained:
    folder = runs / domain
    path = folder / "best.safetensors"
    last = folder / "last.safetensors"
    if not path.exists() and last.exists():
        facts = read_facts(last)
        if facts.progress.finished(facts.config):
            raise ExportError(f"{path} is gone: train again with da3 train --domain {domain} --overwrite, then export")
        raise ExportError(
            f"{folder} has no finished model yet: go on with da3 train --domain {domain} --resume, then export"
        )
    found = read(path)
    weights = BackboneStore(runs).get(found.config.backbone, found.config.weights_sha256)
    return _Trained(domain, folder, found, weights)


def _refuse_strangers(bundle: Path) -> None:
    if bundle.is_file():
        raise ExportError(f"{bundle} is a file: export into a folder, then zip it if you like")
    if bundle.is_dir() and not (bundle / MANIFEST).exists():
        if any(bundle.iterdir()):
            raise ExportError(f"{bundle} is a folder without {MANIFEST}, so no bundle: choose another --bundle")
        bundle.rmdir()


def appeared(fresh: Path, place: Path) -> bool:
    """Whether the bundle ``fresh``, which is whole and on the disk, has become ``place``; False where there is one."""
    try:
        os.rename(fresh, place)
    except OSError:
        if not (place / MANIFEST).exists():
            raise
        return False
    sync_folder(str(place.parent))
    return True
