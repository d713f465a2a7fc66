"""A domain of a bundle put into a registry."""

import os
from typing import Callable, NamedTuple, Optional

from ..bundle.domain import read_pack
from ..bundle.packs import write_pack
from ..errors import RegistryError
from ..records import Path
from ..system.regular import read_regular
from ..system.scratch import temporary_folder
from .answers import PUSH
from .artifact import PACK_LIMIT, write_artifact
from .client import Registry, digest_of
from .reference import parse_reference


class Pushed(NamedTuple):
    """pinned: the reference that names these very bytes for ever. bytes: of the pack. uploaded: of them, how many were
    sent: all or none. replaced: the digest that the tag stood for before; None where it was new, or stood for this."""

    domain: str
    digest: str
    pinned: str
    bytes: int
    uploaded: int
    replaced: Optional[str]


def push_domain(
    bundle: Path, name: str, reference: str, progress: Optional[Callable[[int, int], None]] = None
) -> Pushed:
    """Put a domain of a bundle (directory or zip) where `oci://host/repository:tag` says.

    What the registry has already is not sent again. progress: called with (bytes sent, bytes in all). Raises
    RegistryError, BundleError, DomainError; the tag then stands for what it stood for before.
    """
    place = parse_reference(reference)
    if place.tag is None or place.digest is not None:
        raise RegistryError(
            "%s: push to a tag, such as %s:v1: the digest comes of what is pushed" % (place, _bare(place.place))
        )
    with temporary_folder("push") as folder:
        path = write_pack(bundle, name, os.path.join(folder, "pack.da3"))
        domain = read_pack(path)
        data = read_regular(path, PACK_LIMIT)
        digest, size = digest_of(data), len(data)
        manifest = write_artifact(domain, digest, size)

        def sent(count: int) -> None:
            if progress is not None:
                progress(count, size)

        registry = Registry(place, PUSH)
        try:
            registry.upload_config(folder)
            uploaded = size if registry.upload(path, digest, size, sent) else 0
            before = registry.manifest_or_none()
            if before != manifest:
                registry.put_manifest(manifest)
        finally:
            registry.close()
    replaced = digest_of(before) if before not in (None, manifest) else None
    return Pushed(domain.name, digest_of(manifest), place.pinned(digest_of(manifest)), size, uploaded, replaced)


def _bare(place: str) -> str:
    return place.partition("@")[0]
