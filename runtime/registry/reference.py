"""Where a pack is in a registry: `oci://host[:port]/repository:tag@sha256:...`, taken apart.

The grammar of repositories, tags and digests is that of the OCI Distribution Specification 1.1, "Pulling manifests".
"""

import ipaddress
import re
from typing import NamedTuple, Optional

from ..errors import RegistryError, quoted

SCHEME = "oci://"
DIGEST = re.compile(r"sha256:[a-f0-9]{64}\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?\Z")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(r"%s(?:/%s)*\Z" % (_PART, _PART))
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_LONGEST = 255  # characters of host and repository together, the most that many registries take


class Reference(NamedTuple):
    """host: name or address, with `:port` where one was given. A tag, a digest, or both; a digest is what counts."""

    host: str
    repository: str
    tag: Optional[str]
    digest: Optional[str]

    @property
    def loopback(self) -> bool:
        """Is the registry on this machine? Such a one is spoken to by plain HTTP, every other one by HTTPS."""
        return is_loopback(host_name(self.host))

    @property
    def scheme(self) -> str:
        return "http" if self.loopback else "https"

    @property
    def place(self) -> str:
        """As it is typed, without the digest."""
        return "%s%s/%s%s" % (SCHEME, self.host, self.repository, ":" + self.tag if self.tag else "")

    def pinned(self, digest: str) -> str:
        """What to type to get that very manifest again."""
        return "%s@%s" % (self.place, digest)

    def __str__(self) -> str:
        return self.place if self.digest is None else self.pinned(self.digest)


def parse_reference(text: str) -> Reference:
    """Raises RegistryError for what is none. A reference with a password in it is not repeated."""
    if not text.startswith(SCHEME):
        if "@" in text.partition("@sha256:")[0]:
            raise RegistryError("a reference holds no user and no password: %s" % _HOW)
        raise RegistryError("%s is no place in a registry: it starts with %s: %s" % (quoted(text), SCHEME, _HOW))
    rest = text[len(SCHEME) :]
    name, at, digest = rest.partition("@sha256:")
    if "@" in name:
        raise RegistryError("a reference holds no user and no password, which `docker login` keeps: %s" % _HOW)
    if at and DIGEST.match("sha256:" + digest) is None:
        raise RegistryError("%s: a digest is sha256: and 64 digits of 0-9 and a-f" % quoted(text, 200))
    host, _, path = name.partition("/")
    repository, colon, tag = path.partition(":")
    port = _HOST.match(host)
    if port is None or int(port.group(1) or 1) not in range(1, 65536):
        raise RegistryError("%s: %s is no host, such as registry.example.com:5000" % (quoted(text), quoted(host)))
    if _REPOSITORY.match(repository) is None or len(host) + len(repository) > _LONGEST:
        raise RegistryError(
            "%s: %s is no name of a repository: small letters and digits with single . _ - / between, such as "
            "plants/flowers" % (quoted(text), quoted(repository))
        )
    if colon and _TAG.match(tag) is None:
        raise RegistryError("%s: %s is no tag: letters, digits, . _ and -, at most 128" % (quoted(text), quoted(tag)))
    if not colon and not at:
        raise RegistryError("%s says neither tag nor digest: %s" % (quoted(text, 200), _HOW))
    return Reference(host, repository, tag or None, "sha256:" + digest if at else None)


def host_name(host: str) -> str:
    """Without the port, and without the brackets of an IPv6 address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Only what cannot be another machine: 127.0.0.0/8, ::1, and the name localhost itself."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


_HOW = "%sHOST/REPOSITORY:TAG or %sHOST/REPOSITORY@sha256:DIGEST" % (SCHEME, SCHEME)
