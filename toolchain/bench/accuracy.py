"""What training reaches by method: every method on every domain with every seed, each cell an ordinary run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from da3.runtime.system.atomic import write_atomically
from da3.runtime.system.machine import conditions, usable_cpus
from da3.runtime.training import checkpoint as ckpt
from da3.runtime.training.config import RunConfig
from da3.runtime.training.loading import default_workers
from da3.runtime.training.photos import find_photos
from da3.toolchain.backbones import WeightsFile, load_weights
from da3.toolchain.bench.plots import draw_accuracy
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.scores import Key, Score, summarise
from da3.toolchain.bench.variants import Variant, options_of
from da3.toolchain.errors import CheckpointError, DataError, TrainingError
from da3.toolchain.process.worker import Worker, WorkerError
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.train import device_named

CHILD = "da3.toolchain.bench.accuracy_worker"
POLL = 0.2  # seconds between looks at a wish to stop


@dataclass(frozen=True)
class AccuracyPlan:
    """What to train: ``variants`` x ``domains`` (folders of ``data``) x ``seeds`` runs, into ``out``."""

    data: Path
    out: Path
    variants: list[Variant]
    domains: list[str]
    seeds: int = 3
    epochs: int = 12
    backbone: str = "mobilenet_v2"
    weights: str = "imagenet"
    size: int | None = None
    batch_size: int | None = None
    no_flip: tuple[str, ...] = ()
    device: str = "cpu"
    jobs: int = 1
    overwrite: bool = False

    @property
    def threads(self) -> int:
        """Of each process, so that all of them together use every core."""
        return max(1, usable_cpus() // self.jobs)

    def cells(self) -> dict[Key, TrainOptions]:
        """Every run, a whole table of one seed after another. Raises Da3Error for options that make no sense."""
        for domain in self.no_flip:
            if domain not in self.domains:
                raise TrainingError(f"--no-flip {domain}: no such domain; there are {', '.join(self.domains)}")
        device_named(self.device)
        found = {
            Key(variant.label, domain, seed): self._options(variant, domain, seed)
            for seed in range(self.seeds)
            for domain in self.domains
            for variant in self.variants
        }
        for options in found.values():
            options.check()
        return found

    def _options(self, variant: Variant, domain: str, seed: int) -> TrainOptions:
        levers = _levers(variant.method)
        return TrainOptions(
            domain=domain,
            data=str(self.data / domain),
            runs=self.out / "runs" / variant.folder / f"seed-{seed}",
            method=variant.method,
            backbone=self.backbone,
            weights=self.weights,
            size=self.size,
            epochs=self.epochs,
            batch_size=self.batch_size,
            keep=variant.keep,
            seed=seed,
            flip=domain not in self.no_flip,
            workers=min(default_workers(), self.threads),
            device=self.device,
            **{name: value for name, value in variant.lean.to_json().items() if name in levers},  # type: ignore[arg-type]
        )


def domains_in(root: Path, names: str | None = None) -> list[str]:
    """The folders of ``root`` that hold train/ or at least two folders (classes), or ``names``, a comma list of them.

    Raises DataError if there is none, or not the one that is named.
    """
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; pass one that holds a folder of photos for each domain")
    found = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        inside = [p.name for p in folder.iterdir() if p.is_dir()]
        if folder.name not in ("train", "val") and ("train" in inside or len(inside) >= 2):
            found.append(folder.name)
    if not found:
        raise DataError(f"--data {root} holds no domains: pass the folder above them, each with one folder per class")
    if names is None:
        return found
    asked = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in asked:
        if name not in found:
            raise DataError(f"--domains {name!r}: no such domain in {root}; there are {', '.join(found)}")
    return asked


def bench_accuracy(plan: AccuracyPlan, reporter: BenchReporter, stop: Callable[[], bool] = lambda: False) -> Any:
    """Train what is missing, ``plan.jobs`` runs at a time, and return the report that docs/bench.md describes.

    Runs that ``plan.out`` holds already are taken as they are, or resumed. Writes ``results.json`` and
    ``results.png`` there after each. When ``stop()`` turns true, the runs save and the report has ``remaining``
    above 0. Raises Da3Error, before anything is trained, if a run there was made with other options and
    ``plan.overwrite`` is off. A run that fails is in the report's ``failed``.
    """
    cells = plan.cells()
    weights = load_weights(plan.weights, plan.backbone)
    scores: dict[Key, Score] = {}
    waiting: dict[Key, TrainOptions] = {}
    for done, (key, options) in enumerate(cells.items()):
        reporter.at("looking at the runs there are", done, len(cells))
        score, again = _look(key, options, weights, plan.overwrite)
        if score is not None:
            scores[key] = score
        else:
            waiting[key] = again
    setting = _conditions(plan, weights)
    del weights
    if scores:
        reporter.note(f"{len(scores)} of {len(cells)} runs are there already")
    failed: dict[Key, str] = {}
    report = _write(plan, cells, scores, failed, setting)
    for key, result in _train_all(plan, waiting, len(cells), reporter, stop):
        if isinstance(result, Score):
            scores[key] = result
            reporter.note(f"{key}: {result.last:.1%} after the last epoch, {result.best:.1%} after the best")
        else:
            failed[key] = result
            reporter.note(f"error: {key}: {result}")
        report = _write(plan, cells, scores, failed, setting)
    return report


def _look(key: Key, options: TrainOptions, weights: WeightsFile, overwrite: bool) -> tuple[Score | None, TrainOptions]:
    """The score of a run that is finished, or the options to start, resume or repeat it with."""
    photos = find_photos(options.data_folder(), key.seed)
    asked = options.config(weights, photos.classes, len(photos.train))
    path = options.folder / "last.safetensors"
    if not path.exists():
        return None, options
    try:
        found = ckpt.read(path)
        changed = differences(found.config, asked)
    except CheckpointError:
        if not overwrite:
            raise
        return None, _changed(options, overwrite=True)
    if changed and not overwrite:
        raise TrainingError(
            f"{options.folder} holds a run with other options ({'; '.join(changed)}): train it again with --overwrite, "
            f"or use another --out"
        )
    if not changed and found.progress.epoch >= found.config.epochs:
        return Score.of(found.progress), options
    return None, _changed(options, overwrite=bool(changed), resume=not changed)


def differences(found: RunConfig, asked: RunConfig) -> list[str]:
    """What decides the result and differs, in words. Levers that mean nothing to the method are not compared."""
    before, now = found.to_json(), asked.to_json()
    levers = _levers(asked.method)
    for values in (before, now):
        values |= {name: value for name, value in values.pop("memory").items() if name in levers}
        if asked.method != "da3":
            del values["adaptor"]
    return [
        f"{name.replace('_', '-')} was {_short(before.get(name))}, now {_short(value)}"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _levers(method: str) -> list[str]:
    return [name.replace("-", "_") for name in options_of(method)]


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _changed(options: TrainOptions, **values: object) -> TrainOptions:
    return TrainOptions(**{**vars(options), **values})  # type: ignore[arg-type]


def _train_all(
    plan: AccuracyPlan,
    waiting: dict[Key, TrainOptions],
    total: int,
    reporter: BenchReporter,
    stop: Callable[[], bool],
) -> Any:
    """Yield each key with its Score, or with what went wrong, as its run ends."""
    running: dict[Key, tuple[Worker, float]] = {}  # and the share that is done
    ended, closed = total - len(waiting), threading.Event()

    def train(key: Key) -> Score | str | None:
        if stop() or closed.is_set():
            return None
        options = waiting[key]
        try:
            with Worker(CHILD, _request(options), plan.threads) as worker:
                running[key] = (worker, 0.0)
                if closed.is_set():
                    return None
                for answer in worker.answers():
                    running[key] = (worker, answer.get("done", 1.0))
            found = ckpt.read(options.folder / "last.safetensors")
        except (WorkerError, CheckpointError, OSError) as error:
            return None if stop() else str(error)
        finally:
            running.pop(key, None)
        return Score.of(found.progress) if found.progress.epoch >= found.config.epochs else None

    pool = ThreadPoolExecutor(plan.jobs)
    asked = False
    try:
        futures: dict[Future[Any], Key] = {pool.submit(train, key): key for key in waiting}
        while futures:
            for future in wait(futures, POLL, FIRST_COMPLETED).done:
                key, result = futures.pop(future), future.result()
                ended += 1
                if result is not None:
                    yield key, result
            if stop() and not asked:
                asked = True
                for worker, _ in list(running.values()):
                    worker.ask_to_stop()
            now = list(running.items())
            words = ", ".join(f"{key} {share:.0%}" for key, (_, share) in now)
            reporter.at(f"{ended}/{total} runs; {words}", ended + sum(share for _, (_, share) in now), total)
    finally:
        closed.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for worker, _ in list(running.values()):
            with suppress(OSError):
                worker.process.kill()
        pool.shutdown()


def _request(options: TrainOptions) -> dict[str, object]:
    return {**vars(options), "runs": str(options.runs)}


def _write(
    plan: AccuracyPlan,
    cells: dict[Key, TrainOptions],
    scores: dict[Key, Score],
    failed: dict[Key, str],
    setting: dict[str, Any],
) -> dict[str, Any]:
    report = {
        **summarise([v.label for v in plan.variants], plan.domains, scores),
        "failed": [{**asdict(key), "error": error} for key, error in failed.items()],
        "remaining": len(cells) - len(scores),
        "conditions": setting,
    }
    if scores:
        write_atomically(plan.out / "results.json", json.dumps(report, indent=1).encode())
        write_atomically(plan.out / "results.png", draw_accuracy(report))
    return report


def _conditions(plan: AccuracyPlan, weights: WeightsFile) -> dict[str, Any]:
    return {
        **conditions(),
        "torch": torch.__version__,
        "device": plan.device,
        "jobs": plan.jobs,
        "threads": plan.threads,
        "backbone": plan.backbone,
        "weights": plan.weights,
        "weights_sha256": weights.sha256(plan.backbone),
        "size": plan.size or weights.input_size,
        "epochs": plan.epochs,
        "batch": plan.batch_size or "da3 train's",
        "not_flipped": " ".join(plan.no_flip) or "none",
        "seeds": plan.seeds,
    }
