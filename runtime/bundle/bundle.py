"""Opening a bundle: the manifest, and its files verified by size and sha256 whenever they are read."""

import hashlib
import os
from abc import ABC, abstractmethod
from typing import Callable, List, Optional, Tuple, TypeVar

from ..errors import BundleError, Da3Error, DomainError
from ..records import Domain, Path
from .domain import fitted, read_domain_files, read_domain_goldens
from .files import Files
from .format import (
    DESCRIPTION,
    DOMAINS,
    JSON_LIMIT,
    MANIFEST,
    aside_prefix,
    domain_prefix,
    is_domain_name,
    pending_name,
    set_aside,
)
from .manifest import FileEntry, Manifest, parse_manifest

T = TypeVar("T")
_TRIES = 50  # to read a domain that others replace meanwhile


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
        folders = _folders(self)
        names = {name for name in folders if is_domain_name(name)}.union(set_aside(folders))
        return sorted(name for name in names if self.prefix_of(name) is not None)

    def has(self, name: str) -> bool:
        """Is there a domain of that name? Asked so, the others are not looked at."""
        return is_domain_name(name) and self.prefix_of(name) is not None

    def prefix_of(self, name: str) -> Optional[str]:
        """What the names of a domain's files start with; None where there is no such domain."""
        # More than once, since what was set aside at one moment may be back the next.
        for prefix in (domain_prefix(name), aside_prefix(name)) * 3:
            if self.files.exists(prefix + DESCRIPTION):
                return prefix
        return None

    def read(self, name: str) -> bytes:
        """The bytes of a file that the manifest lists. Raises BundleError unless size and sha256 are as promised."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError("%s: the manifest lists no file %r" % (self.path, name))
        try:
            return self._verified(name, name, entry)
        except BundleError as error:
            # A process that was killed as it replaced the file has left it under another name.
            pending = pending_name(name)
            if self.files.exists(pending):
                try:
                    return self._verified(pending, name, entry)
                except BundleError:
                    pass
            if self._listed_now(name) != entry:
                raise BundleError("%s: %s was replaced since the bundle was opened: open it again" % (self.path, name))
            raise error

    def _verified(self, file: str, name: str, entry: FileEntry) -> bytes:
        """The bytes of `file`, which must be what the manifest says of `name`."""
        data = self.files.read(file, expected_bytes=entry.bytes)
        found = hashlib.sha256(data).hexdigest()
        if found != entry.sha256:
            raise BundleError(
                "%s: %s is not the file the manifest names (sha256 %s..., not %s...); copy or export it again"
                % (self.path, name, found[:12], entry.sha256[:12])
            )
        return data

    def _listed_now(self, name: str) -> Optional[FileEntry]:
        """What the manifest says of a file that it lists, as it is on the disk now."""
        try:
            data = self.files.read(MANIFEST, limit=JSON_LIMIT)
            return parse_manifest(data, os.path.join(self.path, MANIFEST)).files.get(name)
        except Da3Error:
            return self.manifest.files.get(name)

    def verify(self) -> None:
        """Read and check everything: every file of the manifest and every domain."""
        for name in sorted(self.manifest.files):
            self.read(name)
        for name in self.domains:
            read_domain(self, name)
            read_goldens(self, name)

    def close(self) -> None:
        self.files.close()

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_domain(bundle: Bundle, name: str) -> Domain:
    """The domain called `name` in the bundle, verified and fitting. Raises DomainError, which names those there are."""
    return steadily(bundle, name, lambda prefix: _read(bundle, name, prefix))


def read_goldens(bundle: Bundle, name: str) -> Optional[bytes]:
    """The verified file of a domain's golden values; None where it has none. Raises Da3Error."""
    return steadily(bundle, name, lambda prefix: read_domain_goldens(bundle.files, prefix))


def steadily(bundle: Bundle, name: str, read: Callable[[str], T]) -> T:
    """What `read` makes of the files of the domain called `name`, given what their names start with.

    Another process may replace the domain while it is read: what belongs to two is refused by its hash, and read again.
    Raises DomainError, which names those there are, and what `read` raises.
    """
    for _ in range(_TRIES):
        prefix = bundle.prefix_of(name) if is_domain_name(name) else None
        if prefix is None:
            raise DomainError(unknown_domain(name, bundle.domains))
        before = _stamp(bundle, prefix)
        try:
            return read(prefix)
        except Da3Error:
            if before is not None and _stamp(bundle, prefix) == before:
                raise
    raise DomainError("domain %s of %s is replaced faster than it can be read: try again" % (name, bundle.path))


def _folders(bundle: Bundle) -> List[str]:
    """What lies in the folder of the domains. What is a folder is not asked here: at that moment it may be gone, and
    be there under its other name."""
    if bundle.is_zip:
        return bundle.files.folders(DOMAINS)
    try:
        return os.listdir(os.path.join(bundle.path, DOMAINS))
    except OSError:
        return []


def _stamp(bundle: Bundle, prefix: str) -> Optional[Tuple[int, ...]]:
    """Tells one domain.json from the next in its place; None where there is none."""
    if bundle.is_zip:
        return ()
    try:
        status = os.stat(os.path.join(bundle.path, *(prefix + DESCRIPTION).split("/")))
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _read(bundle: Bundle, name: str, prefix: str) -> Domain:
    domain = read_domain_files(bundle.files, prefix)
    if domain.name != name:
        raise DomainError(
            "%s: %s calls itself %r; rename the folder or add the pack again"
            % (bundle.path, prefix + DESCRIPTION, domain.name)
        )
    return fitted(domain, bundle.manifest)


def unknown_domain(name: str, known: List[str]) -> str:
    """The sentence for a name nobody knows."""
    return "unknown domain %r; this bundle has: %s" % (name, ", ".join(known) or "none yet")
