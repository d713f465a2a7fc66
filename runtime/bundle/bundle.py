"""Opening a bundle: the manifest, and its files verified by size and sha256 whenever they are read."""

import hashlib
import os
from abc import ABC, abstractmethod
from typing import List

from ..errors import BundleError, DomainError
from ..records import Domain, Path
from .domain import fitted, read_domain_files, read_domain_goldens
from .files import Files
from .format import DESCRIPTION, DOMAINS, JSON_LIMIT, MANIFEST, domain_prefix, is_domain_name
from .manifest import Manifest, parse_manifest


class BundleContents(ABC):
    """A manifest and the files that it lists, wherever they are. path: what errors call it."""

    path: str
    manifest: Manifest

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file that the manifest lists."""


class Bundle(BundleContents):
    """A bundle directory, or the same zipped, open for reading.

    `manifest` is parsed and checked at once (BundleError says what is wrong); the files behind it are read,
    and verified, when asked for. Usable as a context manager.
    """

    def __init__(self, path: Path, may_store: bool = True) -> None:
        """may_store: whether a backend may store what it makes of the bundle, for its next start, in the folder
        engines/. It never may in a zip."""
        self.files = Files(path, MANIFEST, "bundle")
        self.path = self.files.path
        self.may_store = may_store and not self.files.is_zip
        try:
            data = self.files.read(MANIFEST, limit=JSON_LIMIT)
            self.manifest = parse_manifest(data, os.path.join(self.path, MANIFEST))
        except Exception:
            self.close()
            raise

    @property
    def is_zip(self) -> bool:
        """True if the bundle is one zip file, which is read-only."""
        return self.files.is_zip

    def require_directory(self) -> None:
        """Raises BundleError where nothing can be written: in a zipped bundle."""
        if self.is_zip:
            raise BundleError("%s is a zipped bundle, which is read-only: unzip it first" % self.path)

    @property
    def domains(self) -> List[str]:
        """Sorted names of the domains in the bundle."""
        return [
            name
            for name in self.files.folders(DOMAINS)
            if is_domain_name(name) and self.files.exists(domain_prefix(name) + DESCRIPTION)
        ]

    def read(self, name: str) -> bytes:
        """The bytes of a file that the manifest lists. Raises BundleError unless size and sha256 are as promised."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError("%s: the manifest lists no file %r" % (self.path, name))
        data = self.files.read(name, expected_bytes=entry.bytes)
        found = hashlib.sha256(data).hexdigest()
        if found != entry.sha256:
            raise BundleError(
                "%s: %s is not the file the manifest names (sha256 %s..., not %s...); copy or export it again"
                % (self.path, name, found[:12], entry.sha256[:12])
            )
        return data

    def verify(self) -> None:
        """Read and check everything: every file of the manifest and every domain."""
        for name in sorted(self.manifest.files):
            self.read(name)
        for name in self.domains:
            read_domain(self, name)
            read_domain_goldens(self.files, domain_prefix(name))

    def close(self) -> None:
        self.files.close()

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_domain(bundle: Bundle, name: str) -> Domain:
    """The domain called `name` in the bundle, verified and fitting. Raises DomainError, which names those there are."""
    if name not in bundle.domains:
        raise DomainError(unknown_domain(name, bundle.domains))
    domain = read_domain_files(bundle.files, domain_prefix(name))
    if domain.name != name:
        raise DomainError(
            "%s: %s calls itself %r; rename the folder or add the pack again"
            % (bundle.path, domain_prefix(name) + DESCRIPTION, domain.name)
        )
    return fitted(domain, bundle.manifest)


def unknown_domain(name: str, known: List[str]) -> str:
    """The sentence for a name nobody knows."""
    return "unknown domain %r; this bundle has: %s" % (name, ", ".join(known) or "none yet")
