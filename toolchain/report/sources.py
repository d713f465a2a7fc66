"""What a path names: an evaluation, a training run, a bundle or a pack."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from da3.runtime.bundle import DESCRIPTION, MANIFEST
from da3.runtime.training import BEST, LAST
from da3.toolchain.errors import ReportError
from da3.toolchain.report.bundle_folder import BundleFacts, read_bundle, read_domain_pack
from da3.toolchain.report.evaluation_file import read_evaluations
from da3.toolchain.report.judged import Judged
from da3.toolchain.report.run_folder import RunFacts, read_run

_GIVE = "name a run's folder, a bundle, a pack, or a file of `da3 evaluate --json`"

Found = tuple[Judged, ...] | RunFacts | BundleFacts
Reader = Callable[[], Found]


@dataclass(frozen=True)
class Source:
    """What is at ``path``."""

    path: str
    found: Found


def read_source(path: str, runs: Path, photos: str | None = None) -> Source:
    """Recognise what is at ``path``, or the run of that name in the folder ``runs``, and read it. ``photos``: the
    folder of a run's photos, where they are no longer where they were. Raises Da3Error."""
    return Source(path, _reader(path, runs, photos)())


def _reader(path: str, runs: Path, photos: str | None) -> Reader:
    if os.path.isfile(path):
        if path.endswith(".da3"):
            return lambda: read_domain_pack(path)
        return (lambda: read_bundle(path)) if _is_zip(path) else (lambda: tuple(read_evaluations(path)))
    if _holds(path, LAST, BEST):
        # Another run of the same name in `runs` is another run.
        return lambda: read_run(os.path.abspath(path), runs, photos)
    if _holds(path, MANIFEST):
        return lambda: read_bundle(path)
    if _holds(path, DESCRIPTION):
        return lambda: read_domain_pack(path)
    if _holds(os.path.join(runs, path), LAST, BEST):
        return lambda: read_run(path, runs, photos)
    if os.path.isdir(path):
        raise ReportError(f"nothing to report of in the folder {path}: {_GIVE}{_inside(path)}")
    raise ReportError(f"there is nothing at {path}, and no run of that name in {runs}: {_GIVE}")


def _holds(folder: str, *names: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in names)


def _is_zip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _inside(folder: str) -> str:
    """Where in a folder there would be something, as a hint."""
    marks = (LAST, BEST, MANIFEST, DESCRIPTION)
    found = [name for name in sorted(os.listdir(folder)) if _holds(os.path.join(folder, name), *marks)]
    return f"; in it there are {', '.join(found[:8])}" if found else ""
