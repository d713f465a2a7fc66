"""The manifest that stands for a pack in a registry: an OCI image manifest whose one layer is the pack's bytes.

After the OCI Image Specification 1.1, "Guidelines for Artifact Usage": artifactType says what it is, the config is the
empty descriptor. The annotations are what a board asks before it fetches the layer.
"""

import json
import re
from typing import Any, Dict, NamedTuple

from ..bundle.format import FAMILIAR_LIMIT, GOLDENS_LIMIT, JSON_LIMIT, WEIGHTS_LIMIT, is_domain_name
from ..bundle.jsonfile import Object, parse_object
from ..errors import RegistryError, quoted
from ..records import Domain
from ..system.sizes import render_bytes
from ..system.versions import VERSION
from .reference import DIGEST

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.da3.domain.v1"
LAYER_TYPE = "application/vnd.da3.domain.pack.v1+zip"
EMPTY = b"{}"
EMPTY_CONFIG: Dict[str, Any] = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",  # of EMPTY
    "size": len(EMPTY),
}
MANIFEST_LIMIT = 256 << 10  # bytes; ours have some 900
# A pack has four files, and a zip's own bytes around them.
PACK_LIMIT = JSON_LIMIT + WEIGHTS_LIMIT + GOLDENS_LIMIT + FAMILIAR_LIMIT + (64 << 10)

_DOMAIN, _BACKBONE, _CLASSES, _VERSION = "da3.domain", "da3.backbone.sha256", "da3.classes", "da3.version"
_TITLE = "org.opencontainers.image.title"  # what clients that know nothing of da3 call the file
_SHA256 = re.compile(r"[a-f0-9]{64}\Z")


class Artifact(NamedTuple):
    """What a manifest says of the pack behind it. digest, size: of the layer, which are the pack's bytes."""

    domain: str
    backbone_sha256: str
    classes: int
    digest: str
    size: int


def write_artifact(domain: Domain, digest: str, size: int) -> bytes:
    """The manifest of a pack. The same domain and the same release of da3 give the same bytes, so the same digest."""
    content = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": EMPTY_CONFIG,
        "layers": [
            {
                "mediaType": LAYER_TYPE,
                "digest": digest,
                "size": size,
                "annotations": {_TITLE: domain.name + ".da3"},
            }
        ],
        "annotations": {
            _DOMAIN: domain.name,
            _BACKBONE: domain.backbone_sha256,
            _CLASSES: str(len(domain.classes)),
            _VERSION: VERSION,
        },
    }
    return json.dumps(content, sort_keys=True, indent=1).encode("ascii")


def parse_artifact(data: bytes, where: str) -> Artifact:
    """The Artifact in a manifest's bytes; `where` is what errors call it. Raises RegistryError for what is no pack of
    da3's, and BundleError for what is no JSON or has other types than it should."""
    root = parse_object(data, where, MANIFEST_LIMIT)
    kind = root.optional("artifactType")
    if kind != ARTIFACT_TYPE:
        kind = kind or root.optional("mediaType")
        raise RegistryError(
            "%s is no domain of da3's, but %s: `da3 domains push` puts one there"
            % (where, "of the type %s" % quoted(kind) if kind else "of no type at all")
        )
    if root.integer("schemaVersion") != 2:
        raise RegistryError("%s: schemaVersion must be 2, not %s" % (where, quoted(root.integer("schemaVersion"))))
    layers = root.objects("layers")
    if len(layers) != 1:
        raise RegistryError("%s has %d layers; a domain's pack is one" % (where, len(layers)))
    layer = layers[0]
    if layer.text("mediaType") != LAYER_TYPE:
        raise RegistryError(
            "%s: its layer is of the type %s, not %s" % (where, quoted(layer.raw["mediaType"]), LAYER_TYPE)
        )
    digest, size = layer.text("digest"), layer.integer("size")
    if DIGEST.match(digest) is None:
        raise RegistryError("%s: the layer's digest %s is not sha256: and 64 digits" % (where, quoted(digest)))
    if not 0 < size <= PACK_LIMIT:
        raise RegistryError(
            "%s: its layer has %s bytes, and a pack 1 to %s" % (where, quoted(size), render_bytes(PACK_LIMIT))
        )
    notes = root.object("annotations")
    return Artifact(_name(notes), _backbone(notes), _classes(notes), digest, size)


def _name(notes: Object) -> str:
    name = notes.text(_DOMAIN)
    if not is_domain_name(name):
        raise RegistryError("%s: %s is no name of a domain: %s" % (notes.where, _DOMAIN, quoted(name)))
    return name


def _backbone(notes: Object) -> str:
    sha256 = notes.text(_BACKBONE)
    if _SHA256.match(sha256) is None:
        raise RegistryError("%s: %s is no SHA-256: %s" % (notes.where, _BACKBONE, quoted(sha256)))
    return sha256


def _classes(notes: Object) -> int:
    count = notes.text(_CLASSES)
    if re.match(r"[1-9][0-9]{0,6}\Z", count) is None:
        raise RegistryError("%s: %s is no number of classes: %s" % (notes.where, _CLASSES, quoted(count)))
    return int(count)
