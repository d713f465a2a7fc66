"""Domains of a bundle listed, added, removed, changed and written as packs. Nothing half-written is ever visible.

Whatever is written is first written beside its place under a name that starts with a dot, which no domain's
may, then renamed. A crash leaves at worst such a dotted folder, which nothing reads.
"""

import os
import shutil
import tempfile
from typing import Any, BinaryIO, Dict, List, Optional, Sequence

from ..errors import BundleError, DomainError
from ..records import Domain, ExitRule, Familiar, Path
from ..system.atomic import replace_file
from .bundle import Bundle, read_domain, unknown_domain
from .domain import check_rules, fitted, read_domain_content
from .familiar import familiar_file
from .files import Files
from .format import DESCRIPTION, DOMAINS, FAMILIAR, FORMAT, GATED_FORMAT, JSON_LIMIT, domain_prefix
from .jsonfile import read_json
from .writer import decisions, file_entry, to_json, write_files


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
        opened.files.refuse_links(DOMAINS)
        folder = os.path.join(opened.path, DOMAINS)
        place = os.path.join(folder, domain.name)
        twin = _twin(folder, domain.name)
        if twin is not None:
            raise DomainError(
                "%s already has a domain %s, and a folder for %s too is impossible where file names ignore case: "
                "rename one of them" % (opened.path, twin, domain.name)
            )
        if os.path.lexists(place) and not replace:
            raise DomainError(
                "%s already has a domain %s; replace it (--replace), or remove it first" % (opened.path, domain.name)
            )
        try:
            os.makedirs(folder, exist_ok=True)
            fresh = tempfile.mkdtemp(prefix=".adding-", dir=folder)
            try:
                os.chmod(fresh, 0o755)  # mkdtemp's is for the owner alone
                write_files(fresh, content)
                _swap_in(fresh, place)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
        except OSError as error:
            raise BundleError("cannot write %s: %s" % (place, error.strerror or error))
        return domain


def remove_domain(bundle: Path, name: str) -> None:
    """Delete a domain from a bundle directory."""
    with Bundle(bundle) as opened:
        opened.require_directory()
        if name not in opened.domains:
            raise DomainError(unknown_domain(name, opened.domains))
        opened.files.refuse_links(DOMAINS)  # a domain that is a link may be removed, and what it leads to stays
        place = os.path.join(opened.path, DOMAINS, name)
        try:
            aside = tempfile.mkdtemp(prefix=".removed-", dir=os.path.dirname(place))
            os.rename(place, os.path.join(aside, name))
            shutil.rmtree(aside)
        except OSError as error:
            raise BundleError("cannot remove %s: %s" % (place, error.strerror or error))


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
) -> Domain:
    """Change what is given of a domain in a bundle directory, all of it or nothing; its weights stay as they are.

    metrics: those named are changed, the others stay. Returns the domain as it is now. A Runtime that has it loaded
    keeps the old one until its next `load`. Raises DomainError for what the domain cannot have, such as exits where it
    has gates of format 1.
    """
    with Bundle(bundle) as opened:
        opened.require_directory()
        before = read_domain(opened, name)
        content = read_json(opened.files.read(domain_prefix(name) + DESCRIPTION, limit=JSON_LIMIT))
        if theta is not None:
            if content["format"] > GATED_FORMAT:
                raise DomainError("domain %s has no gates, and so no theta" % name)
            check_rules(before._replace(theta=theta))
            content["theta"] = float(theta)
        changes: Dict[str, Any] = {
            "exits": None if exits is None else tuple(exits),
            "temperature": temperature,
            "closed": None if closed is None else tuple(sorted(set(closed))),
            "calibration": calibration,
        }
        changes = {key: value for key, value in changes.items() if value is not None}
        if changes:
            if before.gated:
                raise DomainError("domain %s has gates of format 1: train and export it again for exits" % name)
            after = fitted(before._replace(**changes), opened.manifest)
            content = {key: value for key, value in content.items() if key not in ("theta", "gated")}
            content.update(decisions(after), format=FORMAT)
        content["metrics"] = dict(before.metrics, **(metrics or {}))
        path = os.path.join(opened.path, DOMAINS, name, DESCRIPTION)
        try:
            data = to_json(content)
        except ValueError:
            raise DomainError("metrics and calibration of domain %s must hold finite numbers" % name)
        try:
            replace_file(path, lambda file: file.write(data))
        except OSError as error:
            raise BundleError("cannot write %s: %s" % (path, error.strerror or error))
        return read_domain(opened, name)


def update_familiar(bundle: Path, name: str, familiar: Optional[Familiar]) -> Domain:
    """Put into a bundle directory what a domain's own photos look like, in the place of what was there; None takes it
    out. Returns the domain as it is now. At any moment the domain can be read, with the one, the other or neither."""
    with Bundle(bundle) as opened:
        opened.require_directory()
        before = read_domain(opened, name)
        if before.gated and familiar is not None:
            raise DomainError("domain %s has gates of format 1: train and export it again" % name)
        fitted(before._replace(familiar=familiar), opened.manifest)
        data = None if familiar is None else familiar_file(familiar)
        content = read_json(opened.files.read(domain_prefix(name) + DESCRIPTION, limit=JSON_LIMIT))
        folder = os.path.join(opened.path, DOMAINS, name)
        try:
            if content.pop("familiar", None) is not None:
                _write_json(os.path.join(folder, DESCRIPTION), content)
            if data is not None:
                replace_file(os.path.join(folder, FAMILIAR), lambda file: file.write(data))
                content["familiar"] = dict([("file", FAMILIAR)], **file_entry(data)._asdict())
                _write_json(os.path.join(folder, DESCRIPTION), content)
            elif os.path.exists(os.path.join(folder, FAMILIAR)):
                os.remove(os.path.join(folder, FAMILIAR))
        except OSError as error:
            raise BundleError("cannot write %s: %s" % (folder, error.strerror or error))
        return read_domain(opened, name)


def _write_json(path: str, content: Dict[str, Any]) -> None:
    data = to_json(content)
    replace_file(path, lambda file: file.write(data))


def write_pack(bundle: Path, name: str, out: Path) -> str:
    """Write a bundle's domain to `out` as a pack; a folder gets <name>.da3 in it. Returns the path written.

    The same domain gives the same bytes, on any machine.
    """
    out = os.fspath(out)
    path = os.path.join(out, name + ".da3") if os.path.isdir(out) else out
    with Bundle(bundle) as opened:
        read_domain(opened, name)  # never hand on what would be refused
        domain, content = read_domain_content(opened.files, domain_prefix(name))
        fitted(domain, opened.manifest)
    try:
        replace_file(path, lambda file: _zip(file, content))
    except OSError as error:
        raise BundleError("cannot write %s: %s" % (path, error.strerror or error))
    return path


def _twin(folder: str, name: str) -> Optional[str]:
    """A domain whose name differs from this one in nothing but its capital letters."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return next((n for n in sorted(names) if n != name and n.lower() == name.lower()), None)


def _swap_in(fresh: str, place: str) -> None:
    """Rename `fresh` to `place`; what was there is put back if that fails."""
    if not os.path.lexists(place):
        os.rename(fresh, place)
        return
    aside = tempfile.mkdtemp(prefix=".replaced-", dir=os.path.dirname(place))
    old = os.path.join(aside, "old")
    os.rename(place, old)
    try:
        os.rename(fresh, place)
    except OSError:
        os.rename(old, place)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _zip(file: BinaryIO, content: Dict[str, bytes]) -> None:
    import zipfile  # a start needs it for nothing else

    # Stored, not deflated: float16 weights hardly shrink, and zlib's output differs between its versions.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in sorted(content.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
