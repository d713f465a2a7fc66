"""What many domains take: measured with one, ten and a hundred copies of a domain, and a model of many more.

The copies have other weights, so that no file system, registry or allocator can share them. They close the same blocks
as their original: docs/scale.md says what other domains cost.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from da3.runtime.bundle import (
    WEIGHTS,
    Bundle,
    add_pack,
    domain_prefix,
    list_domains,
    parse_safetensors,
    put_domain,
    read_domain,
    read_goldens,
    write_pack,
)
from da3.runtime.errors import DomainError, RegistryError
from da3.runtime.records import Domain
from da3.runtime.registry import parse_reference, pull_domain, push_domain
from da3.runtime.system import conditions, temporary_folder
from da3.toolchain.bench.counting_relay import Counted, counting_relay
from da3.toolchain.bench.progress import BenchReporter
from da3.toolchain.bench.reports import ScaleAssumptions, ScaleReport, ScaleRow
from da3.toolchain.bench.scale_model import foretell, scaled
from da3.toolchain.bench.scale_process import hold_domains

_OPENINGS = 20
_Do = Callable[[str, str], object]


@dataclass(frozen=True)
class ScalePlan:
    """What is measured, and the fleet that the model is asked about.

    ``counts``: of domains in a bundle, ascending. ``registry``: None, or ``oci://HOST/REPOSITORY`` on this machine,
    below which repositories are made.
    """

    bundle: Path
    domain: str | None
    counts: Sequence[int] = (1, 10, 100)
    registry: str | None = None
    backend: str = "auto"
    threads: int | None = None
    domains: int = 10_000
    boards: int = 1_000
    domains_a_board: int = 10
    megabits_a_second: float = 100.0


def bench_scale(plan: ScalePlan, reporter: BenchReporter) -> ScaleReport:
    """Works in a temporary folder; the bundle stays as it is. Raises Da3Error where the bundle, the domain or the
    registry cannot be used."""
    counts = list(plan.counts)
    if counts != sorted(set(counts)) or counts[0] < 1:
        raise DomainError(f"--counts {','.join(map(str, counts))}: numbers from 1 on, each larger than the one before")
    with temporary_folder("scale") as scratch, _relayed(plan.registry) as (registry, counted):
        work = _Work(Path(scratch), plan, registry, counted, reporter)
        rows = [work.row(count) for count in counts]
        assumed: ScaleAssumptions = {
            "domains": plan.domains,
            "boards": plan.boards,
            "domains_a_board": plan.domains_a_board,
            "megabits_a_second": plan.megabits_a_second,
        }
        return {
            "domain": work.original.name,
            "backbone_bytes": work.backbone_bytes,
            "rows": rows,
            "foretold": foretell(rows),
            "assumed": assumed,
            "model": scaled(rows, work.backbone_bytes, assumed),
            "conditions": {
                **conditions(),
                "image_size": work.original.size,
                "backend": plan.backend,
                "threads": plan.threads or "the backend's choice",
                "registry": "none" if registry is None else "on loopback",
            },
        }


class _Work:
    """Bundles that grow from one count to the next: ``source`` has the copies, ``added`` and ``pulled`` got them."""

    def __init__(
        self, scratch: Path, plan: ScalePlan, registry: str | None, counted: Counted | None, reporter: BenchReporter
    ) -> None:
        self._plan, self._registry, self._counted, self._reporter = plan, registry, counted, reporter
        self._source, self._added, self._pulled = (scratch / name for name in ("source", "added", "pulled"))
        self._packs = scratch / "packs"
        self._packs.mkdir()
        with Bundle(plan.bundle) as opened:
            opened.require_directory()
            self.original = read_domain(opened, _only(opened, plan.domain))
            self._goldens = read_goldens(opened, self.original.name)
            stored = opened.files.read(domain_prefix(self.original.name) + WEIGHTS)
            self._stored = set(
                parse_safetensors(stored, WEIGHTS)[0]
            )  # others follow from the bundle, and are in no pack
        for folder in (self._source, self._added, self._pulled):
            shutil.copytree(plan.bundle, folder, ignore=shutil.ignore_patterns("domains", "engines", ".*"))
        self.backbone_bytes = _bytes_in(self._source)
        self._names: list[str] = []
        self._warm = False
        self._steps = plan.counts[-1] * (2 if registry is None else 4)
        self._done = 0

    def row(self, count: int) -> ScaleRow:
        """What is measured with ``count`` domains. Medians are over those that were added since the row before."""
        fresh = [f"copy-{number:05d}" for number in range(len(self._names), count)]
        packs = [self._make(name) for name in fresh]
        pushes = self._pushes(fresh)
        adds = [self._timed(f"adding {pack.name}", partial(add_pack, self._added, pack)) for pack in packs]
        pulls = self._pulls(fresh)
        self._names += fresh
        openings = []
        for _ in range(_OPENINGS):
            start = time.perf_counter()
            list_domains(self._added)
            openings.append(time.perf_counter() - start)
        if not self._warm:  # the first process of all stores the graphs that the others read
            self._warm = True
            hold_domains(self._added, self._names[:1], self._plan.backend, self._plan.threads)
        self._reporter.at(f"a process with {count} domains", self._done, self._steps)
        return {
            **hold_domains(self._added, self._names, self._plan.backend, self._plan.threads),
            "domains": count,
            "pack_bytes": statistics.fmean(pack.stat().st_size for pack in packs),
            "disk_bytes": _blocks_in(self._added / "domains"),
            "add_ms": 1e3 * statistics.median(adds),
            "names_ms": 1e3 * min(openings),
            "push_ms": _median_ms(pushes),
            "push_bytes": _mean_bytes(pushes),
            "pull_ms": _median_ms(pulls),
            "pull_bytes": _mean_bytes(pulls),
            "poll_bytes": _mean_bytes(self._polls(fresh)),
        }

    def _make(self, name: str) -> Path:
        """A pack of the original under another name, with other weights."""
        self._step(f"making {name}")
        with Bundle(self._source) as opened:
            put_domain(opened, _copy(self.original, name, self._stored), self._goldens)
        return Path(write_pack(self._source, name, self._packs))

    def _pushes(self, names: Sequence[str]) -> list[tuple[float, int]]:
        return self._over_the_wire("pushing", names, lambda name, place: push_domain(self._source, name, place))

    def _pulls(self, names: Sequence[str]) -> list[tuple[float, int]]:
        return self._over_the_wire("pulling", names, lambda name, place: pull_domain(self._pulled, place))

    def _polls(self, names: Sequence[str]) -> list[tuple[float, int]]:
        """Of one, what it takes to be told that nothing is new."""
        return self._over_the_wire("asking for", names[:1], lambda name, place: pull_domain(self._pulled, place))

    def _over_the_wire(self, what: str, names: Sequence[str], do: _Do) -> list[tuple[float, int]]:
        """(seconds, bytes both ways) of each; nothing without a registry."""
        if self._registry is None or self._counted is None:
            return []
        found: list[tuple[float, int]] = []
        for name in names:
            before = self._counted.bytes_in_all
            place = f"{self._registry}/{name}:v1"
            seconds = self._timed(f"{what} {name}", partial(do, name, place))
            found.append((seconds, self._counted.bytes_in_all - before))
        return found

    def _timed(self, text: str, do: Callable[[], object]) -> float:
        self._step(text)
        start = time.perf_counter()
        do()
        return time.perf_counter() - start

    def _step(self, text: str) -> None:
        self._reporter.at(text, self._done, self._steps)
        self._done += 1


@contextmanager
def _relayed(registry: str | None) -> Iterator[tuple[str | None, Counted | None]]:
    """The registry as it is reached through a relay that counts. Raises RegistryError for one that is elsewhere: what
    is measured would be the network, and hundreds of repositories would be made there."""
    if registry is None:
        yield None, None
        return
    place = parse_reference(registry + ":v1")
    host, _, port = place.host.rpartition(":")
    if not place.loopback or not re.fullmatch(r"\d+", port):
        raise RegistryError(f"--registry {registry}: one on this machine with its port, as oci://localhost:5000/bench")
    try:
        with counting_relay(host.strip("[]"), int(port)) as counted:
            yield f"oci://127.0.0.1:{counted.port}/{place.repository}", counted
    except OSError as error:
        raise RegistryError(f"--registry {registry}: no relay can be opened on this machine: {error}") from None


def _only(bundle: Bundle, domain: str | None) -> str:
    if domain is not None:
        return domain
    names = bundle.domains
    if len(names) != 1:
        raise DomainError(f"which domain? {bundle.path} has: {', '.join(names) or 'none yet'}")
    return names[0]


def _copy(domain: Domain, name: str, stored: Container[str]) -> Domain:
    rng = np.random.RandomState(int(name.rpartition("-")[2]))
    weights = {
        key: (array * (1.0 + 0.01 * rng.standard_normal(array.shape))).astype(np.float32)
        for key, array in domain.weights.items()
        if key in stored
    }
    return domain._replace(name=name, weights=weights)


def _median_ms(measured: Sequence[tuple[float, int]]) -> float | None:
    return 1e3 * statistics.median(seconds for seconds, _ in measured) if measured else None


def _mean_bytes(measured: Sequence[tuple[float, int]]) -> float | None:
    return statistics.fmean(count for _, count in measured) if measured else None


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _blocks_in(folder: Path) -> int:
    """What the file system gives to a folder and all that is in it, where it says so; else the bytes in it."""
    if not hasattr(os.stat_result, "st_blocks"):
        return _bytes_in(folder)
    return sum(path.lstat().st_blocks * 512 for path in (folder, *folder.rglob("*")))
