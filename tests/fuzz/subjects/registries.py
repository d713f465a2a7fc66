"""What a pull believes: manifests that a registry answers with, Docker's configuration, and references as typed."""

import json

from hypothesis import strategies as st

from ..child import case as cases
from ..damage import documents, plain, texts
from . import Subject

_MANIFEST = {
    "annotations": {
        "da3.backbone.sha256": "b" * 64,
        "da3.classes": "3",
        "da3.domain": "flowers",
        "da3.version": "0.1.0",
    },
    "artifactType": "application/vnd.da3.domain.v1",
    "config": {
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "mediaType": "application/vnd.oci.empty.v1+json",
        "size": 2,
    },
    "layers": [
        {
            "annotations": {"org.opencontainers.image.title": "flowers.da3"},
            "digest": "sha256:" + "0123456789abcdef" * 4,
            "mediaType": "application/vnd.da3.domain.pack.v1+zip",
            "size": 2884,
        }
    ],
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "schemaVersion": 2,
}
_DOCKER = {
    "auths": {"ghcr.io": {"auth": "Z2FyZGVuZXI6cm9zZQ=="}, "https://index.docker.io/v1/": {}},
    "credHelpers": {"plants.example.com": "not-installed-here"},
    "credsStore": "",
    "HttpHeaders": {"User-Agent": "Docker-Client/24.0"},
}
_HOSTS = ("ghcr.io", "registry-1.docker.io", "plants.example.com")


def _artifact(what, data):
    return cases.case("manifest", what, "exits", "artifact", ["manifest.json"], [cases.file("manifest.json", data)])


def _credentials(what, data, host):
    return cases.case("docker", what, "exits", "credentials", [host], [cases.file("docker/config.json", data)])


@st.composite
def _manifests(draw):
    content, what = draw(documents.damaged(_MANIFEST))
    data, how = draw(documents.written(content))
    return _artifact(f"{what} {how}", data)


def _manifest_bytes(rng):
    data, what = plain.damaged(json.dumps(_MANIFEST, indent=1).encode(), rng)
    return _artifact(what, data)


@st.composite
def _configurations(draw):
    content, what = draw(documents.damaged(_DOCKER))
    data, how = draw(documents.written(content))
    return _credentials(f"{what} {how}", data, draw(st.sampled_from(_HOSTS)))


def _configuration_bytes(rng):
    data, what = plain.damaged(json.dumps(_DOCKER).encode(), rng)
    return _credentials(what, data, rng.choice(_HOSTS))


@st.composite
def _references(draw):
    """Parts of references in an order that may be right, with others between."""
    parts = ("oci://", "ghcr.io", "localhost:5000", "[::1]:5000", "/", "plants", "flowers", ":", "v1", "@", "sha256:")
    some = st.sampled_from((*parts, "a" * 64, "0" * 64, "A", "..", "//", "user:word@", "?", "#", "%2f", "\\"))
    words = draw(st.lists(some | texts.texts(), min_size=0, max_size=8))
    text = "".join(words) if draw(st.booleans()) else "oci://ghcr.io/plants/flowers" + "".join(words)
    return cases.case("reference", repr(text)[:100], "exits", "reference", [text])


def undamaged():
    """What all this is made of, as it should be."""
    yield _artifact("", json.dumps(_MANIFEST).encode())
    yield from (_credentials("", json.dumps(_DOCKER).encode(), host) for host in _HOSTS[:2])
    yield cases.case("reference", "", "exits", "reference", ["oci://ghcr.io/plants/flowers:v1"])


SUBJECTS = (
    Subject("manifest", 4, _manifests(), _manifest_bytes),
    Subject("docker", 3, _configurations(), _configuration_bytes),
    Subject("reference", 2, _references(), None),
)
