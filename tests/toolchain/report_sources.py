"""Small bundles, evaluations and runs to report of, made in a second; whatever is in them is really computed."""

import json
import shutil
from pathlib import Path

import numpy as np
import synthetic_bundle
from labelled_photos import write_labelled

from da3.runtime import Runtime
from da3.runtime.bundle import update_domain
from da3.runtime.evaluation import as_record, compare, describe, evaluate, read_labelled, verdicts
from da3.runtime.records import ExitRule
from da3.runtime.training import AdaptorSpec, Progress, RunConfig, Validation
from da3.runtime.training.checkpoint import write

CLASSES = ("flowers_0", "flowers_1", "flowers_2")
RUN_CLASSES = ("daisy", "rose", "tulip")
BLOCKS = 17
EXITS = (5, 9)
COSTS = np.array([0.4, 0.7, 1.0])
CALIBRATION = {
    "goal": {"flops_share": 0.7},
    "met": True,
    "photos": 21,
    "cross_fit": {
        "accuracy": 0.8,
        "flops_share": 0.7,
        "all_blocks_accuracy": 0.82,
        "best_static_accuracy": 0.75,
        "left": [0.3, 0.3, 0.4],
        "calibration_errors": [0.01, 0.02, 0.03],
        "latency_ms": 3.21,
    },
}


def write_bundle(folder):
    """A bundle with domains flowers, whose photos leave at exits and skip block 1, and signs; returns its folder."""
    synthetic_bundle.write_exits_bundle(folder)
    rules = [ExitRule(0.99, 0.5), ExitRule(0.385, 2.0)]
    update_domain(folder, "flowers", exits=rules, closed=[1], calibration=CALIBRATION)
    return Path(folder)


def write_evaluation(path, bundle, photos, against=True):
    """Of the bundle's flowers on a folder that is made at `photos`; against: all blocks, in the same file."""
    if not photos.exists():
        write_labelled(photos, CLASSES, each=7)
    with Runtime(bundle, backend="reference") as runtime:
        domain = runtime.use("flowers")
        labelled = read_labelled(photos, CLASSES)
        done = [
            evaluate(runtime, labelled, domain, force_all_blocks=all_on) for all_on in ((False, True)[: 1 + against])
        ]
    paired = compare(*(verdicts(one) for one in done)) if against else None
    path.write_text(json.dumps(as_record([describe(one) for one in done], paired)))
    return path


def run_answers(seed=0, each=10):
    """Answers of two exits and the end to photos of three classes: the later, the more often right and the surer."""
    random = np.random.RandomState(seed)
    labels = np.repeat(np.arange(len(RUN_CLASSES)), each)
    logits = random.normal(0, 1, (len(labels), len(COSTS), len(RUN_CLASSES)))
    for answer in range(len(COSTS)):
        logits[np.arange(len(labels)), answer, labels] += 0.9 + 0.6 * answer
    return Validation(logits.astype(np.float32), labels.astype(np.int64), COSTS)


def write_run(folder, photos, seed=0, epochs=3, closed=(2,), each=10, **changes):
    """A finished run whose folder has everything, and its photos; returns its folder."""
    if not photos.exists():
        for split in ("train", "val"):
            write_labelled(photos / split, RUN_CLASSES, each=each, seed=seed)
    found = run_answers(seed, each)
    calibrated = found.calibrated(0.7)
    history = []
    for epoch in range(1, epochs + 1):
        row = {
            "epoch": epoch,
            "train_loss": 2.0 / epoch,
            "train_accuracy": 1 - 0.4 / epoch,
            "train_share": 1.0 - 0.1 * epoch,
            **found.scores(),
            "lr": 1e-3,
            "seconds": 40.0,
            "images_per_second": 100.0 + epoch,
            "memory_mb": 300.0 + epoch,
        }
        history.append({**row, **calibrated.scores} if epoch == epochs else row)
    config = RunConfig(
        domain="flowers",
        data=str(photos),
        method="da3",
        backbone="mobilenet_v2",
        weights_sha256="ab" * 32,
        classes=RUN_CLASSES,
        size=96,
        epochs=epochs,
        batch_size=16,
        lr=4e-3,
        keep=0.7,
        seed=seed,
        flip=False,
        label_smoothing=0.1,
        adaptor=AdaptorSpec(exits=EXITS, exit_width=8),
    )._replace(**changes)
    told = {
        "da3": "0.1.0",
        "begun": "2026-11-20T08:00:00Z",
        "command": "da3 train --domain flowers",
        "photos": {"sha256": "cd" * 32, "train": 30, "val": 30},
        "versions": {"python": "3.11", "torch": "2.13"},
    }
    progress = Progress(epochs, 0, {}, history, history[-1], calibrated.to_json())
    shut = np.zeros(BLOCKS, np.float32)
    shut[list(closed)] = 1
    for name in ("last.safetensors", "best.safetensors"):
        write(folder / name, config, progress, {"closed": shut}, {}, told)
    (folder / "validation.npz").write_bytes(found.file())
    return folder


def write_everything(folder):
    """All of it; returns the paths to report of: an evaluation of two, a bundle, two runs."""
    bundle = write_bundle(folder / "bundle")
    evaluation = write_evaluation(folder / "flowers.json", bundle, folder / "photos")
    shutil.rmtree(bundle / "engines", ignore_errors=True)
    first = write_run(folder / "runs" / "flowers", folder / "run-photos")
    second = write_run(folder / "runs" / "longer", folder / "run-photos", epochs=4, lr=1e-3)
    return [evaluation, bundle, first, second]
