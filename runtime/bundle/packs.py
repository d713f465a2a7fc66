"""Domains of a bundle listed, added, removed, changed and written as packs. Nothing half-written is ever visible.

One process at a time changes a bundle: it holds the lock in the bundle's folder, and others wait for it. Readers need
no lock.
"""

import os
from typing import Any, BinaryIO, Dict, List, Optional, Sequence

import numpy as np

from ..errors import BundleError, DomainError
from ..records import Domain, ExitRule, Familiar, Path
from ..system.atomic import replace_file
from .bundle import Bundle, read_domain, steadily, unknown_domain
from .changing import changing
from .domain import check_rules, fitted, read_domain_content
from .familiar import familiar_file
from .files import Files
from .format import DESCRIPTION, DOMAINS, FAMILIAR, FORMAT, GATED_FORMAT, JSON_LIMIT, domain_prefix
from .jsonfile import read_json
from .manifest import Manifest
from .placing import put_folder, remove_folder
from .writer import decisions, domain_files, file_entry, to_json


def list_domains(bundle: Path) -> List[str]:
    """Sorted names of the domains in a bundle (directory or zip)."""
    with Bundle(bundle) as opened:
        return opened.domains


def add_pack(bundle: Path, pack: Path, replace: bool = False) -> Domain:
    """Add a pack (`flowers.da3`, or a folder with domain.json) to a bundle directory; returns the domain.

    Raises DomainError if it was made for another backbone, or is there already and `replace` is False. A
    Runtime that has the bundle open sees the domain at its next `load`.
    """
    with Bundle(bundle) as opened:
        opened.require_directory()
        source = Files(pack, DESCRIPTION, "domain pack")
        try:
            domain, content = read_domain_content(source, "")
        finally:
            source.close()
        domain = fitted(domain, opened.manifest)
        _put(opened, domain.name, content, replace)
        return domain


def put_domain(bundle: Bundle, domain: Domain, goldens: Optional[bytes] = None) -> None:
    """Put a domain into an open bundle directory in one step, in the place of one of its name. goldens: its file of
    golden values, if it has one. Raises DomainError where it does not fit, BundleError where nothing can be written."""
    bundle.require_directory()
    _put(bundle, fitted(domain, bundle.manifest).name, domain_files(domain, goldens), True)


def _put(bundle: Bundle, name: str, files: Dict[str, bytes], replace: bool) -> None:
    folder = os.path.join(bundle.path, DOMAINS)
    with changing(bundle, os.path.join(DOMAINS, name), name):
        bundle.files.refuse_links(DOMAINS)
        twin = _twin(folder, name)
        if twin is not None:
            raise DomainError(
                "%s already has a domain %s, and a folder for %s too is impossible where file names ignore case: "
                "rename one of them" % (bundle.path, twin, name)
            )
        if os.path.lexists(os.path.join(folder, name)) and not replace:
            raise DomainError(
                "%s already has a domain %s; replace it (--replace), or remove it first" % (bundle.path, name)
            )
        put_folder(folder, name, files)


def remove_domain(bundle: Path, name: str) -> None:
    """Delete a domain from a bundle directory."""
    with Bundle(bundle) as opened:
        opened.require_directory()
        with changing(opened, os.path.join(DOMAINS, name), name):
            if not opened.has(name):
                raise DomainError(unknown_domain(name, opened.domains))
            opened.files.refuse_links(DOMAINS)  # a domain that is a link may be removed, and what it leads to stays
            remove_folder(os.path.join(opened.path, DOMAINS), name)


def update_domain(
    bundle: Path,
    name: str,
    theta: Optional[float] = None,
    metrics: Optional[Dict[str, Any]] = None,
    *,
    exits: Optional[Sequence[ExitRule]] = None,
    temperature: Optional[float] = None,
    closed: Optional[Sequence[int]] = None,
    calibration: Optional[Dict[str, Any]] = None,
    measured: Optional[Domain] = None,
) -> Domain:
    """Change what is given of a domain in a bundle directory, all of it or nothing; its weights stay as they are.

    metrics: those named are changed, the others stay. measured: the domain that the change was found on. Returns the
    domain as it is now. A Runtime that has it loaded keeps the old one until its next `load`. Raises DomainError for
    what the domain cannot have, such as exits where it has gates of format 1, and where another domain than `measured`
    has its name by now.
    """
    changes: Dict[str, Any] = {
        "exits": None if exits is None else tuple(exits),
        "temperature": temperature,
        "closed": None if closed is None else tuple(sorted(set(closed))),
        "calibration": calibration,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    with Bundle(bundle) as opened:
        opened.require_directory()
        with changing(opened, os.path.join(DOMAINS, name, DESCRIPTION), name):
            return _updated(opened, name, theta, metrics or {}, changes, measured)


def _updated(
    bundle: Bundle,
    name: str,
    theta: Optional[float],
    metrics: Dict[str, Any],
    changes: Dict[str, Any],
    measured: Optional[Domain],
) -> Domain:
    before = read_domain(bundle, name)
    if measured is not None and not _same_tensors(before, measured):
        raise DomainError("domain %s was replaced while it was measured: do it again" % name)
    content = read_json(bundle.files.read(domain_prefix(name) + DESCRIPTION, limit=JSON_LIMIT))
    if theta is not None:
        if content["format"] > GATED_FORMAT:
            raise DomainError("domain %s has no gates, and so no theta" % name)
        check_rules(before._replace(theta=theta))
        content["theta"] = float(theta)
    if changes:
        if before.gated:
            raise DomainError("domain %s has gates of format 1: train and export it again for exits" % name)
        after = fitted(before._replace(**changes), bundle.manifest)
        content = {key: value for key, value in content.items() if key not in ("theta", "gated")}
        content.update(decisions(after), format=FORMAT)
    content["metrics"] = dict(before.metrics, **metrics)
    try:
        data = to_json(content)
    except ValueError:
        raise DomainError("metrics and calibration of domain %s must hold finite numbers" % name)
    replace_file(os.path.join(bundle.path, DOMAINS, name, DESCRIPTION), lambda file: file.write(data))
    return read_domain(bundle, name)


def _same_tensors(one: Domain, other: Domain) -> bool:
    if one.backbone_sha256 != other.backbone_sha256 or one.weights.keys() != other.weights.keys():
        return False
    return all(np.array_equal(array, other.weights[key]) for key, array in one.weights.items())


def update_familiar(bundle: Path, name: str, familiar: Optional[Familiar]) -> Domain:
    """Put into a bundle directory what a domain's own photos look like, in the place of what was there; None takes it
    out. In one step, as if the domain were added again. Returns the domain as it is now."""
    with Bundle(bundle) as opened:
        opened.require_directory()
        with changing(opened, os.path.join(DOMAINS, name), name):
            before = read_domain(opened, name)
            if before.gated and familiar is not None:
                raise DomainError("domain %s has gates of format 1: train and export it again" % name)
            fitted(before._replace(familiar=familiar), opened.manifest)
            opened.files.refuse_links(DOMAINS)
            files = read_domain_content(opened.files, domain_prefix(name))[1]
            content = read_json(files[DESCRIPTION], limit=JSON_LIMIT)
            content.pop("familiar", None)
            files = {file: data for file, data in files.items() if file != FAMILIAR}
            if familiar is not None:
                files[FAMILIAR] = familiar_file(familiar)
                content["familiar"] = dict([("file", FAMILIAR)], **file_entry(files[FAMILIAR])._asdict())
            put_folder(os.path.join(opened.path, DOMAINS), name, dict(files, **{DESCRIPTION: to_json(content)}))
            return read_domain(opened, name)


def write_pack(bundle: Path, name: str, out: Path) -> str:
    """Write a bundle's domain to `out` as a pack; a folder gets <name>.da3 in it. Returns the path written.

    The same domain gives the same bytes, on any machine.
    """
    out = os.fspath(out)
    path = os.path.join(out, name + ".da3") if os.path.isdir(out) else out
    with Bundle(bundle) as opened:
        read_domain(opened, name)  # never hand on what would be refused
        domain, content = steadily(opened, name, lambda prefix: read_domain_content(opened.files, prefix))
        fitted(domain, opened.manifest)
    _write_zip(path, content)
    return path


def copy_pack(pack: Path, manifest: Manifest, out: str) -> Domain:
    """Verify a pack, or a folder with domain.json, and write what was verified to `out` as a pack; returns the domain.

    Raises DomainError where it does not fit the manifest's bundle. The same domain gives the same bytes.
    """
    source = Files(pack, DESCRIPTION, "domain pack")
    try:
        domain, content = read_domain_content(source, "")
    finally:
        source.close()
    domain = fitted(domain, manifest)
    _write_zip(out, content)
    return domain


def _write_zip(path: str, content: Dict[str, bytes]) -> None:
    try:
        replace_file(path, lambda file: _zip(file, content))
    except OSError as error:
        raise BundleError("cannot write %s: %s" % (path, error.strerror or error))


def _twin(folder: str, name: str) -> Optional[str]:
    """A domain whose name differs from this one in nothing but its capital letters."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return next((n for n in sorted(names) if n != name and n.lower() == name.lower()), None)


def _zip(file: BinaryIO, content: Dict[str, bytes]) -> None:
    import zipfile  # a start needs it for nothing else

    # Stored, not deflated: float16 weights hardly shrink, and zlib's output differs between its versions.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(content.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
