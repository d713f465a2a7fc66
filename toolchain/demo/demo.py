"""``da3 demo``: the whole path on the embedded backbone and two small domains, ending in measured figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from da3.export import export_domain
from da3.runtime import Runtime
from da3.runtime.bundle import write_pack
from da3.runtime.evaluation import as_record, describe, evaluate, read_labelled
from da3.runtime.images import evenly, list_labelled
from da3.runtime.system import write_atomically
from da3.runtime.training import Row
from da3.toolchain.bench import compare, switch_us
from da3.toolchain.curves import draw
from da3.toolchain.demo.photos import DOMAINS, write_domain
from da3.toolchain.errors import TrainingError
from da3.toolchain.process import stop_on_interrupt
from da3.toolchain.report import write_report
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import ConsoleReporter
from da3.toolchain.training.train import Result, train

KEEP = 0.75  # share of the block FLOPs to run
EPOCHS, LINEAR_EPOCHS = 20, 10
TIMED_PHOTOS, REPEATS = 30, 8


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One domain's figures. Accuracies are 0..1, flops_share is the share 0..1 of the blocks' FLOPs that ran.

    ``accuracy`` and ``flops_share`` are those of pictures that leave at exits, each by thresholds that were chosen on
    others; times are means a picture.
    """

    domain: str
    linear_accuracy: float
    all_on_accuracy: float
    accuracy: float
    flops_share: float
    all_on_ms: float
    gated_ms: float
    switch_us: float
    pack_bytes: int


@dataclass(frozen=True)
class DemoReport:
    """What was measured, and the paths of the bundle, of the picture of the training curves, and of the report."""

    rows: list[DemoRow]
    bundle: Path
    curves: Path
    report: Path


def run_demo(folder: Path, seed: int = 0, quiet: bool = False) -> DemoReport:
    """Write photos, train, export and run ``DOMAINS`` below ``folder``. Raises Da3Error, like its steps."""
    console = Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    bundle, histories = folder / "bundle", {}
    linear: dict[str, Row] = {}
    trained: dict[str, Row] = {}
    for domain in DOMAINS:
        console.print(f"\n{domain}: writing its photos to {folder / 'photos' / domain}")
        write_domain(domain, folder / "photos", seed)
        console.print("for comparison, a linear probe on the frozen backbone:")
        linear[domain] = _best(_train(folder, domain, seed, "linear", quiet))
        accuracy = linear[domain]["val_accuracy"]
        console.print(f"{accuracy:.1%} on its validation pictures; now da3's adaptors and exits:")
        run = _train(folder, domain, seed, "da3", quiet)
        histories[domain], trained[domain] = run.history, _best(run)
        done = export_domain(domain, folder / "runs", bundle)
        worst = max(check.error for check in done.checks)
        console.print(f"exported: {len(done.checks)} checks against PyTorch, largest relative error {worst:.1e}")
    curves = folder / "curves.png"
    write_atomically(curves, draw(histories))
    rows = _measure(folder, bundle, linear, trained)
    console.print("writing a report of it all")
    evaluations = _evaluate(folder, bundle)
    told = [*evaluations, bundle, *(folder / "runs" / domain for domain in DOMAINS)]
    report = write_report([str(path) for path in told], folder / "report.html")
    return DemoReport(rows, bundle, curves, report)


def _train(folder: Path, domain: str, seed: int, method: str, quiet: bool) -> Result:
    full = method == "da3"  # the linear probe is there for comparison only
    options = TrainOptions(
        domain=domain,
        data=str(folder / "photos" / domain),
        runs=folder / ("runs" if full else "runs-linear"),
        method=method,
        weights="demo",
        epochs=EPOCHS if full else LINEAR_EPOCHS,
        keep=KEEP if full else None,
        seed=seed,
        flip=False,
        overwrite=True,
    )
    with ConsoleReporter(lines=full, quiet=quiet) as reporter, stop_on_interrupt(reporter.note) as stop:
        result = train(options, reporter, stop)
    if not result.finished:
        raise TrainingError("the demo was stopped: run it again to start over")
    return result


def _best(result: Result) -> Row:
    assert result.best is not None, "a finished run has a best epoch"
    return result.best


def _evaluate(folder: Path, bundle: Path) -> list[Path]:
    """Evaluate each domain on its validation pictures, as `da3 evaluate` does; returns the records' files."""
    paths = []
    with Runtime(bundle) as runtime:
        for name in DOMAINS:
            domain = runtime.use(name)
            photos = read_labelled(folder / "photos" / name, domain.classes)
            record = as_record([describe(evaluate(runtime, photos, domain))])
            paths.append(folder / f"{name}.json")
            write_atomically(paths[-1], json.dumps(record).encode())
    return paths


def _measure(folder: Path, bundle: Path, linear: dict[str, Row], trained: dict[str, Row]) -> list[DemoRow]:
    rows = []
    with Runtime(bundle) as runtime:
        for domain in DOMAINS:
            classes = runtime.use(domain).classes
            _, photos = list_labelled(folder / "photos" / domain / "val", classes)
            images = np.concatenate(list(runtime.prepare([path for path, _ in evenly(photos, TIMED_PHOTOS)])))
            all_on, gated = compare(runtime, images, domain, repeats=REPEATS, names=("all-on", "gated"))["rows"]
            rows.append(
                DemoRow(
                    domain=domain,
                    linear_accuracy=linear[domain]["val_accuracy"],
                    all_on_accuracy=trained[domain]["val_accuracy"],
                    accuracy=trained[domain]["kept_accuracy"],
                    flops_share=trained[domain]["kept_share"],
                    all_on_ms=all_on["mean_ms"],
                    gated_ms=gated["mean_ms"],
                    switch_us=switch_us(runtime, domain, len(DOMAINS)),
                    pack_bytes=Path(write_pack(bundle, domain, folder)).stat().st_size,
                )
            )
    return rows
