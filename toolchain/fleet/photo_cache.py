"""Photos and files that URIs name, brought to a node once, whole, and found there by whoever wants them next.

What is brought lies in a folder that is called as its contents are identified: by the URI, and each file's name, size
and tag (an ETag, or what else the storage gives). So a run that is gone on with elsewhere has the same photos, or none.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from da3.runtime.system import exclusive, scratch_folder
from da3.toolchain.errors import FleetError
from da3.toolchain.fleet.places import opened, shown, storage

_MOST_FILES = 1_000_000
_LARGEST = 256 << 20  # bytes of a photo, as everywhere
_LARGEST_FILE = 2 << 30  # bytes of weights, or of a pack
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "checksum")
_AT_ONCE = 64  # files that are asked for together
_PATIENCE = 24 * 3600.0  # seconds for another process of this node to bring the same
_COMING = ".coming-"
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\]+")

Brought = Callable[[int, int], None]  # files that are here, and their total


class Listed(NamedTuple):
    """A file below a URI: its name with / between folders, its bytes, what the storage tells versions apart by ("" for
    nothing), and the MD5 of its content in hexadecimal digits where the storage gives that."""

    name: str
    size: int
    tag: str
    md5: str | None


def photos_there(uri: str) -> list[Listed]:
    """The files in folders below a URI, by name. Raises FleetError where there are none, too many, or odd ones."""
    system, root = opened(uri)
    with storage(uri, "listed"):
        details = system.find(root, detail=True)
    prefix = system._strip_protocol(root).rstrip("/") + "/"
    found = []
    for path, info in details.items():
        name = str(path)
        name = name[len(prefix) :] if name.startswith(prefix) else name.lstrip("/")
        parts = name.split("/")
        if len(parts) < 2 or any(part.startswith(".") and part not in (".", "..") for part in parts):
            continue  # no photo of a class, as in a folder
        if any(part in ("", ".", "..") for part in parts) or _PLAIN.fullmatch(name) is None:
            raise FleetError(f"{shown(uri)} holds a file with an odd name, {name!r}: rename it")
        found.append(_listed(name, info, _LARGEST, uri))
        if len(found) > _MOST_FILES:
            raise FleetError(f"{shown(uri)} holds more than {_MOST_FILES} files: name the folder of one domain")
    if not found:
        raise FleetError(f"{shown(uri)} holds no photos in folders: name one with a subfolder for each class")
    return sorted(found)


def photo_folder(uri: str, there: list[Listed], cache: Path) -> Path:
    """Where ``bring_photos`` puts what is ``there``."""
    return cache / "photos" / _identity(uri, there) / _last_name(uri)


def bring_photos(uri: str, cache: Path, brought: Brought = lambda done, total: None) -> Path:
    """The folder on this node with all photos below a URI. Raises FleetError for what cannot be brought, or comes with
    another size or content than the storage says."""
    there = photos_there(uri)
    folder = photo_folder(uri, there, cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent, patience=_PATIENCE):
        if not _is_whole(folder, there):
            with scratch_folder(str(folder.parent), _COMING) as scratch:
                fresh = Path(scratch) / folder.name
                _bring(uri, there, fresh, brought)
                if folder.exists():
                    os.replace(folder, Path(scratch) / "before")
                os.replace(fresh, folder)
    return folder


def bring_file(uri: str, cache: Path) -> Path:
    """The file on this node with the content of the one that a URI names."""
    system, path = opened(uri)
    with storage(uri):
        listed = _listed(_last_name(uri), system.info(path), _LARGEST_FILE, uri)
    target = cache / "files" / _identity(uri, [listed]) / listed.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.parent, patience=_PATIENCE):
        if not (target.is_file() and target.stat().st_size == listed.size):
            with scratch_folder(str(target.parent), _COMING) as scratch:
                fresh = Path(scratch) / listed.name
                with storage(uri, "read"):
                    system.get_file(path, str(fresh))
                _check(uri, fresh, listed)
                os.replace(fresh, target)
    return target


def _bring(uri: str, there: list[Listed], fresh: Path, brought: Brought) -> None:
    system, root = opened(uri)
    for start in range(0, len(there), _AT_ONCE):
        some = there[start : start + _AT_ONCE]
        local = [fresh.joinpath(*listed.name.split("/")) for listed in some]
        for folder in {path.parent for path in local}:
            folder.mkdir(parents=True, exist_ok=True)
        with storage(uri, "read"):
            system.get([f"{root.rstrip('/')}/{listed.name}" for listed in some], [str(path) for path in local])
        for path, listed in zip(local, some, strict=True):
            _check(uri, path, listed)
        brought(start + len(some), len(there))


def _check(uri: str, path: Path, listed: Listed) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FleetError(f"{shown(uri)}: {listed.name} did not come: try again") from error
    if size != listed.size:
        raise FleetError(
            f"{shown(uri)}: {listed.name} came with {size} bytes, not {listed.size}: it changed meanwhile; try again"
        )
    if listed.md5 is not None and hashlib.md5(path.read_bytes()).hexdigest() != listed.md5:
        raise FleetError(f"{shown(uri)}: {listed.name} came damaged (another MD5 than the storage says): try again")


def _is_whole(folder: Path, there: list[Listed]) -> bool:
    try:
        return all(folder.joinpath(*one.name.split("/")).stat().st_size == one.size for one in there)
    except OSError:
        return False


def _listed(name: str, info: dict[str, Any], largest: int, uri: str) -> Listed:
    size = info.get("size")
    if not isinstance(size, int) or not 0 <= size <= largest:
        raise FleetError(f"{shown(uri)}: {name} has a size of {size}: must be known, and at most {largest} bytes")
    tag = next((str(info[key]) for key in _TAGS if info.get(key)), "")
    md5 = info.get("md5Hash") or info.get("content_md5")
    if isinstance(md5, str):
        try:
            md5 = base64.b64decode(md5, validate=True)
        except ValueError:
            md5 = None
    return Listed(name, size, tag, md5.hex() if isinstance(md5, (bytes, bytearray)) and len(md5) == 16 else None)


def _identity(uri: str, there: list[Listed]) -> str:
    found = hashlib.sha256(uri.rstrip("/").encode())
    for listed in there:
        found.update(f"\n{listed.name}\0{listed.size}\0{listed.tag}".encode())
    return found.hexdigest()[:24]


def _last_name(uri: str) -> str:
    names = re.findall(r"[A-Za-z0-9._-]+", uri.split("::")[0].rpartition("://")[2].rstrip("/"))
    return names[-1][-64:].lstrip(".") or "photos" if names else "photos"
