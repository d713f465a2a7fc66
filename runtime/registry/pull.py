"""A domain of a registry put into a bundle, verified as any pack; a pull that breaks off goes on where it was."""

from typing import Callable, NamedTuple, Optional

from ..bundle.bundle import Bundle
from ..bundle.domain import read_pack
from ..bundle.packs import add_pack, write_pack
from ..errors import Da3Error, DomainError, RegistryError
from ..records import Path
from ..system.regular import read_regular
from ..system.scratch import temporary_folder
from ..system.sizes import render_bytes
from .answers import PULL, BrokenOff
from .artifact import PACK_LIMIT, Artifact, parse_artifact
from .client import Registry, digest_of
from .partial import Partial, kept_partial
from .reference import Reference, parse_reference

# After so many requests in a row that bring no byte, or so many that break off, a pull gives up.
_FRUITLESS, _BREAKS = 3, 100

Progress = Callable[[int, int], None]


class Pulled(NamedTuple):
    """digest: of the manifest. pinned: the reference that names it for ever. bytes: of the pack. fetched: of them, how
    many came now: fewer than all where an earlier pull had broken off. added: not where the bundle had these bytes."""

    domain: str
    digest: str
    pinned: str
    bytes: int
    fetched: int
    added: bool


def pull_domain(bundle: Path, reference: str, replace: bool = False, progress: Optional[Progress] = None) -> Pulled:
    """Add to a bundle directory the domain that `oci://host/repository:tag`, or `...@sha256:digest`, stands for.

    A domain for another backbone, or one whose name the bundle has already (without `replace`), is refused before it is
    fetched. progress: called with (bytes there, bytes in all). Raises RegistryError, BundleError, DomainError; the
    bundle is then as it was, and what had come is kept for the next pull.
    """
    place = parse_reference(reference)
    with Bundle(bundle) as opened:
        opened.require_directory()
        registry = Registry(place, PULL)
        try:
            data, digest = registry.manifest()
            artifact = parse_artifact(data, str(place))
            pulled = Pulled(artifact.domain, digest, place.pinned(digest), artifact.size, 0, False)
            if _has(opened, artifact):
                return pulled
            _check_wanted(opened, artifact, place, replace)
            with kept_partial(opened, artifact.digest) as partial:
                fetched = _fetch(registry, artifact, partial, progress)
                _check_pack(partial, artifact, place)
                add_pack(bundle, partial.path, replace)
        finally:
            registry.close()
    return pulled._replace(fetched=fetched, added=True)


def _has(bundle: Bundle, artifact: Artifact) -> bool:
    """Has the bundle this very pack?"""
    if not bundle.has(artifact.domain):
        return False
    with temporary_folder("pull") as folder:
        try:
            path = write_pack(bundle.path, artifact.domain, folder)
        except Da3Error:  # damaged: to be replaced
            return False
        return digest_of(read_regular(path, PACK_LIMIT)) == artifact.digest


def _check_wanted(bundle: Bundle, artifact: Artifact, place: Reference, replace: bool) -> None:
    """What add_pack would refuse, before anything is fetched."""
    ours = bundle.manifest.backbone_sha256
    if artifact.backbone_sha256 != ours:
        raise DomainError(
            "%s: domain %s was trained on another backbone (%s...) than %s has (%s...): export it for this one"
            % (place, artifact.domain, artifact.backbone_sha256[:12], bundle.path, ours[:12])
        )
    if not replace and bundle.has(artifact.domain):
        raise DomainError(
            "%s already has a domain %s; replace it (--replace), or remove it first" % (bundle.path, artifact.domain)
        )


def _fetch(registry: Registry, artifact: Artifact, partial: Partial, progress: Optional[Progress]) -> int:
    """Make the partial file whole; returns how many bytes came. Raises RegistryError."""
    fetched, fruitless, breaks = 0, 0, 0

    def came(count: int) -> None:
        nonlocal fetched
        fetched += count
        if progress is not None:
            progress(partial.size, artifact.size)

    while True:
        if partial.size > artifact.size or (partial.size == artifact.size and partial.digest != artifact.digest):
            partial.start_anew()  # what was there was damaged where it lay
        if partial.size == artifact.size:
            return fetched
        before = fetched
        try:
            _fetch_on(registry, artifact, partial, came)
        except BrokenOff as error:
            breaks += 1
            fruitless = 0 if fetched > before else fruitless + 1
            if fruitless == _FRUITLESS or breaks == _BREAKS:
                there = "%s of %s are kept" % (render_bytes(partial.size), render_bytes(artifact.size))
                raise BrokenOff("%s; %s, and the same command goes on" % (error, there)) from None


def _fetch_on(registry: Registry, artifact: Artifact, partial: Partial, came: Callable[[int], None]) -> None:
    """One request for what is missing, which brings all of it, or raises BrokenOff."""
    anew = partial.size == 0
    first, pieces = registry.layer(artifact.digest, artifact.size, partial.size)
    there = partial.size - first  # what a registry that gives no parts sends once more
    try:
        for piece in pieces:
            new = piece[there:]
            there = max(0, there - len(piece))
            if partial.size + len(new) > artifact.size:
                raise _other_bytes(registry, partial, "more than the %d bytes that the manifest says" % artifact.size)
            partial.append(new)
            came(len(piece))
    finally:
        partial.flush()
    if partial.size < artifact.size:
        raise BrokenOff("the registry %s: the connection ended before the layer did" % registry.reference.host)
    if anew and partial.digest != artifact.digest:
        raise _other_bytes(registry, partial, "other bytes (%s...) than their digest says" % partial.digest[:19])


def _other_bytes(registry: Registry, partial: Partial, what: str) -> RegistryError:
    partial.discard()
    return RegistryError(
        "the registry %s sends %s: nothing was added; push the pack again" % (registry.reference.host, what)
    )


def _check_pack(partial: Partial, artifact: Artifact, place: Reference) -> None:
    """What the manifest said of the pack was what the bundle was asked about: it must hold."""
    try:
        domain = read_pack(partial.path)
    except Da3Error as error:
        partial.discard()
        raise RegistryError("%s is no pack that da3 takes: %s" % (place, error)) from None
    found = (domain.name, domain.backbone_sha256, len(domain.classes))
    if found != (artifact.domain, artifact.backbone_sha256, artifact.classes):
        partial.discard()
        raise RegistryError(
            "%s: its manifest says domain %s with %d classes, and its pack is %s with %d classes, or for another "
            "backbone: nothing was added" % (place, artifact.domain, artifact.classes, domain.name, len(domain.classes))
        )
