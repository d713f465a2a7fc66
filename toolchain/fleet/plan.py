"""``fleet.yaml``: which domains there are, how each is trained, and what it needs of a node.

out: results                  # a folder that all nodes see, or a URI
cache: ~/.cache/da3/fleet     # on each node, for what URIs bring; this is where it is without the line
defaults:                     # of all domains: options of da3 train, and what a node has to have free
  data: s3://photos/{domain}
  epochs: 12
  cpus: 2                     # threads, too: as many give the same result on any node
  memory: 1GiB
domains:
  flowers:
  signs:
    flip: false
    data: photos/signs        # relative to this file

"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from da3.runtime.errors import Da3Error
from da3.runtime.training.limits import check_domain
from da3.toolchain.errors import FleetError, hint
from da3.toolchain.fleet.job import Job
from da3.toolchain.fleet.options import check, read_options, train_options
from da3.toolchain.fleet.places import absolute, below, is_uri
from da3.toolchain.fleet.reading import Said, read_yaml

_TOP = ("out", "cache", "defaults", "domains")
_MOST_DOMAINS = 10000
_MOST_CPUS = 1024
CACHE = "~/.cache/da3/fleet"


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """A fleet as its file has it: ``out``, an absolute path or a URI, and a job for each domain, in order."""

    file: str
    out: str
    jobs: tuple[Job, ...]

    @property
    def runs(self) -> str:
        """Where the runs are, as ``da3 export --runs`` takes it where it is a path."""
        return below(self.out, "runs")


def read_plan(file: str, command: str | None = None) -> FleetPlan:
    """The plan in a file. ``command``: as it was typed, to be written down in every run.

    Raises FleetError, in one line with file and domain, for what is unknown, twice, no value or makes no sense.
    """
    said = read_yaml(file)
    for name, (_, line) in said.items():
        if name not in _TOP:
            raise FleetError(f"{file}: line {line}: {name} is nothing of a fleet: {hint(name, _TOP)}")
    base = Path(file).absolute().parent
    out = absolute(_text(said, "out", file), base)
    cache = _text(said, "cache", file, CACHE)
    if is_uri(cache) or not cache.startswith(("/", "~")):
        raise FleetError(f"{file}: cache {cache}: must be a folder on each node, a path that begins with / or ~")
    shared = read_options(_table(said, "defaults", file), f"{file}: defaults")
    domains = _table(said, "domains", file)
    if not domains:
        raise FleetError(f"{file} has no domains: write `domains:`, and below it a line `NAME:` for each")
    if len(domains) > _MOST_DOMAINS:
        raise FleetError(f"{file} has {len(domains)} domains, more than {_MOST_DOMAINS}: make several fleets")
    _check_names(domains, file)
    jobs = []
    for name, (value, line) in domains.items():
        where = f"{file}: domain {name}"
        if isinstance(value, str):
            raise FleetError(f"{where}: line {line}: must have lines `option: value` below it, or none")
        own = read_options(value or {}, where)
        try:
            jobs.append(_job(name, {**shared, **own}, base=base, out=out, cache=cache, command=command))
        except Da3Error as error:
            raise FleetError(f"{where}: {error}") from error
    return FleetPlan(file=file, out=out, jobs=tuple(jobs))


def of_domains(plan: FleetPlan, names: list[str]) -> FleetPlan:
    """The same with these domains alone. Raises FleetError for one that is not there."""
    known = [job.name for job in plan.jobs]
    for name in names:
        if name not in known:
            raise FleetError(f"--domain {name}: no such domain in {plan.file}: {hint(name, known)}")
    return replace(plan, jobs=tuple(job for job in plan.jobs if job.name in names))


def _job(name: str, found: dict[str, Any], *, base: Path, out: str, cache: str, command: str | None) -> Job:
    if "data" not in found:
        raise FleetError("has no data: name the folder of its photos, or its URI")
    for option in ("data", "weights", "from"):
        if option in found:
            found[option] = _place(option, found[option].replace("{domain}", name), base)
    cpus, gpus = found.get("cpus", 1), found.get("gpus", 0.0)
    if not 1 <= cpus <= _MOST_CPUS:
        raise FleetError(f"cpus {cpus}: must be between 1 and {_MOST_CPUS}")
    if not 0 <= gpus <= 1 or not math.isfinite(gpus):
        raise FleetError(f"gpus {gpus:g}: a domain is trained on one GPU, or a part of it: between 0 and 1")
    engine = found.get("engine", "pytorch")
    options = {"command": command, **train_options(found)}
    device = options.get("device", "auto")
    if device == "auto":
        options["device"] = "cuda" if gpus else "cpu"
    elif (device != "cpu") != bool(gpus):
        raise FleetError(f"device {device} with gpus {gpus:g}: " + ("write cpus alone" if gpus else "write gpus: 1"))
    if engine != "pytorch" and gpus:
        raise FleetError(f"engine {engine} with gpus {gpus:g}: it learns on the CPU; leave gpus out")
    # The device is PyTorch's here; where there is none, it is checked on the node.
    check(name, {**options, "device": "cpu"}, engine)
    options.setdefault("workers", min(4, cpus))
    return Job(
        name=name,
        options={"domain": name, **options},
        runs=below(out, "runs"),
        pack=below(out, "packs", f"{name}.da3") if options.get("method", "da3") == "da3" else None,
        cache=cache,
        engine=engine,
        cpus=cpus,
        gpus=gpus,
        memory=found.get("memory", 0),
    )


def _place(option: str, text: str, base: Path) -> str:
    if option == "weights" and text in ("imagenet", "demo"):
        return text
    if option == "from" and not is_uri(text) and os.sep not in text and not text.endswith(".da3"):
        raise FleetError(f"from {text}: name a file or folder by a path, such as packs/{text}.da3, or a URI")
    return absolute(text, base)


def _check_names(domains: dict[str, Said], file: str) -> None:
    small: dict[str, str] = {}
    for name, (_, line) in domains.items():
        try:
            check_domain(name)
        except Da3Error as error:
            raise FleetError(f"{file}: line {line}: {error}") from error
        other = small.setdefault(name.lower(), name)
        if other != name:
            raise FleetError(f"{file}: line {line}: {name} and {other} differ in capitals alone: rename one of them")


def _text(said: dict[str, Said], name: str, file: str, default: str | None = None) -> str:
    if name not in said:
        if default is None:
            raise FleetError(f"{file} has no line `{name}:`: name the folder, or the URI, for what is trained")
        return default
    value, line = said[name]
    if not isinstance(value, str):
        raise FleetError(f"{file}: line {line}: {name} must be a path or a URI")
    return value


def _table(said: dict[str, Said], name: str, file: str) -> dict[str, Said]:
    value, line = said.get(name, Said(None, 0))
    if isinstance(value, str):
        raise FleetError(f"{file}: line {line}: {name} must have lines `name: value` below it")
    return value or {}
