"""A run's folder on a node's own disk, and the same folder below a URI: one follows the other.

A checkpoint says everything that is needed to go on, and refers to what lies beside it: so what lies beside it goes
first, and the checkpoint last. Each file appears there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

from da3.runtime.system import scratch_folder
from da3.runtime.training import LAST, RUN_FILES
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet.places import below, is_uri, opened, storage

# Storages whose files appear whole by themselves; others are written beside their place, and moved to it.
_WHOLE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "tos", "memory"}
_TRIES, _PAUSE_S = 4, 2.0
_BESIDE = tuple(name for name in RUN_FILES if name != LAST)  # of a run, beside its checkpoint
BACKBONES = "backbones"  # beside the runs, what they were trained on


class Mirror:
    """``runs/<domain>`` of a node, which ``save`` copies below ``uri``, and ``restore`` brings from there."""

    def __init__(self, runs: Path, uri: str, domain: str):
        self.runs, self.uri, self.domain = runs, uri, domain
        self.folder = runs / domain
        self._saved: dict[str, tuple[int, int]] = {}  # by file below the runs, what it was when it was saved

    def restore(self) -> bool:
        """Bring an earlier run's files, and the backbones beside them. Whether there is a checkpoint to go on from."""
        system, root = opened(self.uri)
        there = f"{root.rstrip('/')}/{self.domain}"
        with storage(self.uri, "read"):
            if not system.exists(f"{there}/{LAST}"):
                return False
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in RUN_FILES:
                if system.exists(f"{there}/{name}"):
                    system.get_file(f"{there}/{name}", str(self.folder / name))
            if system.exists(f"{root.rstrip('/')}/{BACKBONES}"):
                (self.runs / BACKBONES).mkdir(exist_ok=True)
                for path in system.ls(f"{root.rstrip('/')}/{BACKBONES}", detail=False):
                    name = str(path).rstrip("/").rpartition("/")[2]
                    if name.endswith(".safetensors") and not name.startswith("."):
                        system.get_file(path, str(self.runs / BACKBONES / name))
        return True

    def save(self) -> None:
        """Copy what has changed since the last time, as of one checkpoint. Raises FleetError where that fails."""
        with scratch_folder(str(self.runs), ".saving-") as scratch:
            # Files are replaced and never changed, so a link keeps one as it is now. The checkpoint is linked first:
            # what lies beside it is then as new, or newer, and is written anew as the run goes on.
            held = {name for name in (LAST, *_BESIDE) if self._hold(name, Path(scratch))}
            self._save_backbones()
            for name in (*_BESIDE, LAST):
                if name in held:
                    self._put(Path(scratch) / name, f"{self.domain}/{name}")

    def changed(self) -> bool:
        """Whether there is a checkpoint that is not saved."""
        status = _status(self.folder / LAST)
        return status is not None and self._saved.get(f"{self.domain}/{LAST}") != status

    def _hold(self, name: str, scratch: Path) -> bool:
        try:
            os.link(self.folder / name, scratch / name)
        except FileNotFoundError:
            return False
        except OSError:  # no links here
            shutil.copy2(self.folder / name, scratch / name)
        return True

    def _save_backbones(self) -> None:
        for path in sorted((self.runs / BACKBONES).glob("*.safetensors")):
            name = f"{BACKBONES}/{path.name}"
            if name not in self._saved:
                system, target = opened(below(self.uri, name))
                with storage(self.uri):
                    if system.exists(target) and system.info(target)["size"] == path.stat().st_size:
                        status = _status(path)
                        assert status is not None
                        self._saved[name] = status
                        continue
                self._put(path, name)

    def _put(self, path: Path, name: str) -> None:
        status = _status(path)
        if status is None or self._saved.get(name) == status:
            return
        put_file(path, below(self.uri, name))
        self._saved[name] = status


def put_file(path: Path, uri: str) -> None:
    """Copy a file to a URI, where it appears whole. Raises FleetError where that fails again and again."""
    for attempt in range(_TRIES):
        try:
            _put_once(path, uri)
            return
        except FleetError:
            if attempt + 1 == _TRIES:
                raise
            time.sleep(_PAUSE_S * 2**attempt)


def remove_run(runs: str, domain: str) -> None:
    """Remove an earlier run below a folder or a URI, its checkpoint first: without that, it is none."""
    names = (LAST, *_BESIDE)
    if not is_uri(runs):
        for name in names:
            Path(runs, domain, name).unlink(missing_ok=True)
        return
    system, root = opened(below(runs, domain))
    with storage(runs, "changed"):
        for name in names:
            if system.exists(f"{root}/{name}"):
                system.rm_file(f"{root}/{name}")


def _put_once(path: Path, uri: str) -> None:
    system, target = opened(uri)
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    with storage(uri, "written"):
        system.makedirs(target.rpartition("/")[0], exist_ok=True)
        if protocols & _WHOLE:
            system.put_file(str(path), target)
            return
        folder, _, name = target.rpartition("/")
        coming = f"{folder}/.coming-{name}-{socket.gethostname()}-{os.getpid()}"
        system.put_file(str(path), coming)
        system.mv(coming, target)


def _status(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
