"""The format of bundles: its number, what the files are called, and which names are allowed (see docs/bundle.md)."""

import re
from typing import List

FORMAT = 2  # of manifest.json and of domain.json
GATED_FORMAT = 1  # of a domain whose blocks are gated picture by picture
MANIFEST = "manifest.json"
DOMAINS = "domains"  # the folder of the domains, each in one of its own
DESCRIPTION = "domain.json"
WEIGHTS = "weights.safetensors"
GOLDENS = "goldens.safetensors"  # of a domain; may be absent
FAMILIAR = "familiar.safetensors"  # of a domain: what its photos look like; may be absent
BACKBONE_GOLDENS = "backbone/goldens.safetensors"  # of the backbone; may be absent
ASIDE = "_replaced-"  # what a domain's folder is called after, for a moment, where two cannot change places in one step
PENDING = "_next-"  # what a file is called after that the manifest lists already, until it has its name
# Bytes that a file may have at most. No JSON file of a bundle is nearly as large, and parsed it takes twenty times as
# much. A domain's weights are float16 in the file and float32 in memory.
JSON_LIMIT = 4 << 20
WEIGHTS_LIMIT = 128 << 20
GOLDENS_LIMIT = 16 << 20
FAMILIAR_LIMIT = 16 << 20
FILE_LIMIT = 256 << 20

_SAFE_PART = re.compile(r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]*$")
_DOMAIN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
# Windows gives these names to devices, in every folder: no folder can have one there.
_DEVICES = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])\Z", re.IGNORECASE)


def domain_prefix(name: str) -> str:
    """What the names of a domain's files start with."""
    return "%s/%s/" % (DOMAINS, name)


def aside_prefix(name: str) -> str:
    """What the names of a domain's files start with while its folder is set aside."""
    return "%s/%s%s/" % (DOMAINS, ASIDE, name)


def set_aside(folders: List[str]) -> List[str]:
    """Names of the domains that are set aside among the folders of all."""
    names = [folder[len(ASIDE) :] for folder in folders if folder.startswith(ASIDE)]
    return [name for name in names if is_domain_name(name)]


def pending_name(name: str) -> str:
    """The name under which the next content of a file waits for its place."""
    folder, _, file = name.rpartition("/")
    return "/".join([folder, PENDING + file] if folder else [PENDING + file])


def is_safe_name(name: str) -> bool:
    """True for a relative path of plain parts with `/` between: never absolute, no `..`, no backslash, no drive."""
    return all(_SAFE_PART.match(part) is not None for part in name.split("/"))


def is_domain_name(name: str) -> bool:
    """Letters, digits, `_` and `-`, at most 64, starting with a letter or a digit, and no name that Windows gives to a
    device, such as CON or COM1."""
    return _DOMAIN_NAME.match(name) is not None and _DEVICES.match(name) is None
