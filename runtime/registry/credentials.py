"""What Docker's configuration knows to say to a registry: a user and a password, never printed.

`docker login` (or podman's, or a cloud's tool) writes it. Looked at as Docker does: `auths`, then `credHelpers` of this
registry, then `credsStore`; a helper is a program called docker-credential-NAME that is asked on its stdin.
"""

import base64
import binascii
import os
import re
from typing import Any, Dict, List, Optional

from ..bundle.jsonfile import read_json
from ..errors import RegistryError, quoted
from ..system.regular import read_regular

_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_HELPER_S = 15.0  # one that asks a person, or a network, may take a moment
_LIMIT = 1 << 20
_NONE_KNOWN = "credentials not found"  # what helpers answer for a registry they do not know
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Credentials:
    """Printed, it says nothing of them."""

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password


def configuration_file() -> str:
    """Docker's: in the folder that DOCKER_CONFIG names, else in ~/.docker."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(folder, "config.json")


def find_credentials(host: str) -> Optional[Credentials]:
    """Of the registry at `host` ("registry.example.com:5000"); None where Docker's configuration has none.

    Raises RegistryError where that file, or what a helper answers, cannot be understood; nothing of either is quoted.
    """
    path = configuration_file()
    if not os.path.exists(path):
        return None
    try:
        content = read_json(read_regular(path, _LIMIT))
    except OSError as error:
        raise RegistryError("cannot read Docker's configuration %s: %s" % (path, error.strerror or error)) from None
    except ValueError:
        raise RegistryError("Docker's configuration %s is not valid JSON: `docker login` writes it" % path) from None
    if not isinstance(content, dict):
        raise RegistryError("Docker's configuration %s is no JSON object: `docker login` writes it" % path)
    auths, helpers, store = content.get("auths"), content.get("credHelpers"), content.get("credsStore")
    for key in _keys(host):
        entry = auths.get(key) if isinstance(auths, dict) else None
        found = _inline(entry, path, host) if isinstance(entry, dict) else None
        if found is None and isinstance(helpers, dict) and key in helpers:
            found = _ask(helpers[key], key, path)
        if found is None and store:
            found = _ask(store, key, path)
        if found is not None:
            return found
    return None


def _keys(host: str) -> List[str]:
    """The names under which tools have written a registry down."""
    keys = [host, "https://" + host, "https://%s/" % host, "https://%s/v2/" % host, "https://%s/v1/" % host]
    if host in _DOCKER_HUB:
        keys.append("https://index.docker.io/v1/")
    return keys


def _inline(entry: Dict[str, Any], path: str, host: str) -> Optional[Credentials]:
    user, password, both = entry.get("username"), entry.get("password"), entry.get("auth")
    if isinstance(user, str) and isinstance(password, str) and user:
        return Credentials(user, password)
    if not both:
        return None  # a store has it
    found = None
    if isinstance(both, str):
        try:
            found = base64.b64decode(both.encode("ascii"), validate=True).decode("utf-8").partition(":")
        except (ValueError, binascii.Error):
            pass
    if found is None or not found[0] or not found[1]:
        raise RegistryError(
            "Docker's configuration %s: auth of %s is not the base64 of user:password: `docker login %s` writes it"
            % (path, host, host)
        )
    return Credentials(found[0], found[2].rstrip("\0"))


def _ask(helper: Any, key: str, path: str) -> Optional[Credentials]:
    """What the helper of that name says of a registry."""
    import subprocess  # a start needs it for nothing else

    if not isinstance(helper, str) or _HELPER_NAME.match(helper) is None:
        raise RegistryError("Docker's configuration %s: %s is no name of a credential helper" % (path, quoted(helper)))
    program = "docker-credential-" + helper
    try:
        done = subprocess.run(
            [program, "get"],
            input=key.encode("utf-8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_HELPER_S,
        )
    except subprocess.TimeoutExpired:
        raise RegistryError(
            "%s, which Docker's configuration names, did not answer in %d s" % (program, _HELPER_S)
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise RegistryError(
            "cannot run %s, which Docker's configuration %s names: %s" % (program, path, reason)
        ) from None
    if done.returncode:
        if _NONE_KNOWN in done.stdout[:1000].decode("utf-8", "replace"):
            return None
        raise RegistryError("%s failed (exit code %d): `docker login` again" % (program, done.returncode)) from None
    try:
        answer = read_json(done.stdout, _LIMIT)
        user, password = answer["Username"], answer["Secret"]
        if not isinstance(user, str) or not isinstance(password, str):
            raise ValueError
    except (ValueError, LookupError, TypeError):
        raise RegistryError("%s did not answer with a user and a secret in JSON" % program) from None
    if user == "<token>":
        raise RegistryError(
            "%s has an identity token for %s, which is not supported: `docker login` with user and password"
            % (program, key)
        )
    return Credentials(user, password) if user else None
