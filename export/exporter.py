"""``da3 export``: a trained domain into a bundle, verified before anything is put in place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from da3.export.errors import ExportError
from da3.export.segments import deploy
from da3.export.standalone import standalone
from da3.export.verify import Array, Check, relative_error, require, verify
from da3.export.writer import domain_files, load_stored, manifest, stored_tensors, write_files
from da3.runtime import Runtime
from da3.runtime.app.zipapp import write_run_engine
from da3.runtime.backends.onnxruntime import open_session
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.bundle.packs import add_pack
from da3.runtime.images.preprocess import Preprocessing
from da3.runtime.system.atomic import write_atomically
from da3.runtime.training.checkpoint import Checkpoint, read
from da3.toolchain.backbones import WeightsFile
from da3.toolchain.backbones.preprocessing import preprocessing_of
from da3.toolchain.methods.ordinary import Ordinary
from da3.toolchain.network.model import DomainModel
from da3.toolchain.training.checkpoint import BackboneStore, learner_of


@dataclass(frozen=True)
class Exported:
    """What an export wrote: "a new bundle", "a domain into the bundle" or "one ONNX file" at ``path``.

    ``domain_bytes``: the size of the domain's own files.
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
    found, weights = _load(domain, runs)
    if found.config.method != "da3":
        raise ExportError(
            f"{found.path} was trained with --method {found.config.method}: only da3 domains go into a bundle; "
            f"use --standalone FILE.onnx"
        )
    model = learner_of(found, weights).model
    assert isinstance(model, DomainModel)
    tensors = stored_tensors(model)
    load_stored(model, tensors)
    best = found.progress.best or {}
    metrics = {"val_accuracy": best["val_accuracy"], "flops_share": best["val_share"]} if best else {}
    files = domain_files(model, tensors, domain, found.config.classes, metrics)
    preprocessing = preprocessing_of(found.config.size, weights)
    images = _samples(runs / domain, preprocessing)

    bundle = Path(os.path.abspath(bundle))
    _refuse_strangers(bundle)
    new = not bundle.exists()
    with _scratch(bundle.parent) as scratch:
        home = bundle
        if new:
            home = scratch / "bundle"
            deployment = deploy(model)
            write_files(home, {**deployment.files, "manifest.json": manifest(model, deployment, preprocessing)})
        pack = scratch / domain
        write_files(pack, files)
        with Bundle(home) as opened, Runtime(opened) as runtime:
            checks = verify(model, opened, runtime, runtime.load(pack), images)
        require(checks)
        write_run_engine(home)
        add_pack(home, pack, replace=True)
        if new:
            os.rename(home, bundle)
    what = "a new bundle" if new else "a domain into the bundle"
    return Exported(bundle, checks, what, sum(map(len, files.values())))


def export_standalone(domain: str, runs: Path, path: Path) -> Exported:
    """Write one ordinary ONNX file of the domain, which gives the bundle's answers; verified like a bundle."""
    found, weights = _load(domain, runs)
    config = found.config
    learner = learner_of(found, weights)
    model: DomainModel | None = None
    if isinstance(learner, Ordinary):
        backbone, head = learner.frozen()
    else:
        assert isinstance(learner.model, DomainModel)
        model = learner.model
        load_stored(model, stored_tensors(model))  # the same numbers as the bundle's
        backbone, head = model.backbone, model.head
    learner.eval_mode()
    data = standalone(backbone, head, config.size, len(config.classes), model)
    images = _samples(runs / domain, preprocessing_of(config.size, weights))
    with torch.no_grad():
        expected = learner.forward(torch.from_numpy(images)).logits.numpy()
    session = open_session(data)  # one that shares the process's thread pool with any open Runtime
    (logits,) = session.run(["logits"], {"image": images})
    same = bool((logits.argmax(1) == expected.argmax(1)).all())
    check = Check(
        "end to end, one batch",
        relative_error(logits, expected),
        f"{len(images)} images, top-1 {'equal' if same else 'DIFFERS'}",
        same,
    )
    require([check])
    write_atomically(path, data)
    return Exported(path, [check], "one ONNX file", len(data))


def _load(domain: str, runs: Path) -> tuple[Checkpoint, WeightsFile]:
    folder = runs / domain
    path = folder / "best.safetensors"
    if not path.exists() and (folder / "last.safetensors").exists():
        raise ExportError(
            f"{folder} has no finished model yet: go on with da3 train --domain {domain} --resume, then export"
        )
    found = read(path)
    return found, BackboneStore(runs).get(found.config.backbone, found.config.weights_sha256)


def _samples(folder: Path, preprocessing: Preprocessing) -> Array:
    """The photos that training kept for this: (N, 3, S, S) float32, preprocessed."""
    path = folder / "samples.npy"
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is missing or damaged ({error}): train the domain again") from error
    images: Array = preprocessing.normalise(pixels)
    return images


def _refuse_strangers(bundle: Path) -> None:
    if bundle.is_file():
        raise ExportError(f"{bundle} is a file: export into a folder, then zip it if you like")
    if bundle.is_dir() and not (bundle / "manifest.json").exists():
        if any(bundle.iterdir()):
            raise ExportError(f"{bundle} is a folder without manifest.json, so no bundle: choose another --bundle")
        bundle.rmdir()


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder on the same disk as the bundle, so that the last step is a rename; gone afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".da3-export-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
