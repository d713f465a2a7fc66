"""Which training runs a benchmark of accuracy consists of: every method on every domain with every seed."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from da3.runtime.system import usable_cpus
from da3.runtime.training import default_workers
from da3.toolchain.bench.scores import Key
from da3.toolchain.bench.variants import Variant, memory_settings_of
from da3.toolchain.errors import DataError, TrainingError
from da3.toolchain.learning import ENGINES
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.train import device_named


class PlannedRun(NamedTuple):
    """One training run. ``engine``: what computes, as ``da3 train --engine`` names it."""

    options: TrainOptions
    engine: str = ENGINES[0]


@dataclass(frozen=True, kw_only=True)
class AccuracyPlan:
    """What to train: ``variants`` x ``domains`` (folders of ``data``) x ``seeds``, into ``out``.

    Variants that give the same network share its runs. ``against``: the label or method of the variant, or the choice
    between several, that the others are compared with. ``size`` and ``batch_size``: None is what ``da3 train`` would
    choose. ``no_flip``: domains whose photos must not be mirrored. ``jobs``: runs at a time. ``overwrite``: train again
    what ``out`` holds of runs with other options. ``last_only``: validate after the last epoch alone.
    ``address``: of the Ray cluster that trains, in the place of this machine, each run on ``cpus`` of a node.
    """

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
    against: str | None = None
    last_only: bool = False
    address: str | None = None
    cpus: int = 1

    @property
    def threads(self) -> int:
        """Of each process: on this machine, so that all of them together use every core."""
        return max(1, usable_cpus() // self.jobs) if self.address is None else self.cpus

    def runs(self) -> dict[Key, PlannedRun]:
        """Every run, by the network's name, all runs of one seed before those of the next.

        Raises Da3Error for options that make no sense.
        """
        for domain in self.no_flip:
            if domain not in self.domains:
                raise TrainingError(f"--no-flip {domain}: no such domain; there are {', '.join(self.domains)}")
        engine = next((v.engine for v in self.variants if v.engine != ENGINES[0]), None)
        if engine is not None and self.device != "cpu":
            raise TrainingError(f"--device {self.device}: {engine} learns on the CPU; leave --device out")
        device_named(self.device)
        found = {
            Key(variant.network, domain, seed): PlannedRun(self._options(variant, domain, seed), variant.engine)
            for seed in range(self.seeds)
            for domain in self.domains
            for variant in self.variants
        }
        for run in found.values():
            run.options.check()
        self.baseline()
        return found

    def baseline(self) -> list[str]:
        """Labels of the variants that ``against`` means: none, one, or those between which is chosen.

        Raises TrainingError where it means nothing, or several that are no choice.
        """
        if self.against is None:
            return []
        for name in (attrgetter("label"), attrgetter("choice"), attrgetter("method")):
            found = [variant for variant in self.variants if name(variant) == self.against]
            if len({variant.choice or variant.label for variant in found}) == 1:
                return [variant.label for variant in found]
        known = dict.fromkeys(variant.choice or variant.label for variant in self.variants)
        raise TrainingError(f"--against {self.against}: must be one of the methods, {' or '.join(known)}")

    def _options(self, variant: Variant, domain: str, seed: int) -> TrainOptions:
        names = memory_settings_of(variant.method)
        memory = variant.memory
        if variant.engine != ENGINES[0]:
            memory = memory._replace(keep_precision="fp32")  # as such a run's checkpoint says
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
            lr=variant.learning_rate,
            keep=variant.trained_budget,
            seed=seed,
            flip=domain not in self.no_flip,
            workers=min(default_workers(), self.threads),
            device=self.device,
            last_only=self.last_only,
            **{name: value for name, value in memory.to_json().items() if name in names},
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
