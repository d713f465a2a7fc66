"""What is asked of a registry, through oras's client under da3's rules: a manifest, a layer, both put there."""

import hashlib
import io
from typing import Any, Callable, Dict, Iterator, Optional, Set, Tuple

from ..errors import RegistryError
from ..system.versions import distribution_version
from .answers import failure, refusal
from .artifact import EMPTY, EMPTY_CONFIG, MANIFEST_TYPE
from .guard import Origin, guarded_session, header, origin_of, pieces
from .login import registry_auth
from .reference import Reference

_OLDEST = (0, 2, 40)  # of oras
Sent = Callable[[int], None]  # told how many bytes of a layer are out


class Registry:
    """The registry of one reference. Everything raises RegistryError, in one line that repeats nothing secret."""

    def __init__(self, reference: Reference, action: str) -> None:
        """action: PUSH or PULL, for errors."""
        self.reference = reference
        self._client, self._container = _oras_client(reference, action)
        self._base = "%s://" % reference.scheme

    def manifest(self) -> Tuple[bytes, str]:
        """(bytes, digest) of the manifest that the reference names, whose digest is the one that was asked for."""
        url = self._base + self._container.manifest_url()
        response = self._client.do_request(url, "GET", headers={"Accept": MANIFEST_TYPE})
        data = response.content
        digest = digest_of(data)
        promised = self.reference.digest or header(response, "Docker-Content-Digest")
        if promised.startswith("sha256:") and promised != digest:
            raise RegistryError(
                "the registry %s answers with another manifest (%s...) than %s..."
                % (self.reference.host, digest[:19], promised[:19])
            )
        return data, digest

    def manifest_or_none(self) -> Optional[bytes]:
        """The bytes of the manifest at the reference's tag; None where there is none, or none that may be read."""
        url = self._base + self._container.manifest_url()
        response = self._client.do_request(url, "HEAD", headers={"Accept": MANIFEST_TYPE})
        return None if response.status_code == 404 else self.manifest()[0]

    def layer(self, digest: str, size: int, start: int) -> Tuple[int, Iterator[bytes]]:
        """(first, pieces) of a layer's bytes from `start` on, or from 0 where the registry gives no parts of it."""
        url = self._base + self._container.get_blob_url(digest)
        headers = {"Range": "bytes=%d-" % start} if start else {}
        response = self._client.do_request(url, "GET", headers=headers, stream=True)
        first = 0
        if response.status_code == 206:
            first = start
            if header(response, "Content-Range") != "bytes %d-%d/%d" % (start, size - 1, size):
                response.close()
                raise RegistryError("the registry %s sends another part of the layer than asked" % self.reference.host)
        elif response.status_code != 200:
            response.close()
            raise self._unexpected(response)
        return first, pieces(response, self.reference)

    def upload(self, path: str, digest: str, size: int, sent: Optional[Sent] = None) -> bool:
        """Put the file at `path` there as a layer; False where the registry has it. sent: is told how much is out."""
        layer: Dict[str, Any] = {"digest": digest, "size": size}
        if self._client.blob_exists(layer, self._container):
            return False
        self._client.sent = sent
        self._put(path, layer)
        self._client.sent = None
        return True

    def upload_config(self, folder: str) -> None:
        """Put the empty config there, which registries want to have before a manifest names it."""
        if not self._client.blob_exists(EMPTY_CONFIG, self._container):
            path = "%s/config.json" % folder
            with open(path, "wb") as file:
                file.write(EMPTY)
            self._put(path, EMPTY_CONFIG)

    def put_manifest(self, data: bytes) -> None:
        """Make the reference's tag stand for this manifest."""
        url = self._base + self._container.manifest_url()
        response = self._client.do_request(url, "PUT", data=data, headers={"Content-Type": MANIFEST_TYPE})
        self._check_stored(response, digest_of(data))

    def close(self) -> None:
        self._client.session.close()

    def _put(self, path: str, layer: Dict[str, Any]) -> None:
        try:
            response = self._client.put_upload(path, self._container, layer)
        except ValueError:  # of oras, for a Location that is missing, or none
            raise RegistryError(
                "the registry %s does not say where to upload to: is it one?" % self.reference.host
            ) from None
        self._check_stored(response, layer["digest"])

    def _check_stored(self, response: Any, digest: str) -> None:
        if response.status_code != 201:
            raise self._unexpected(response)
        said = header(response, "Docker-Content-Digest")
        if said and said != digest:
            raise RegistryError("the registry %s stored other bytes than it was sent" % self.reference.host)

    def _unexpected(self, response: Any) -> RegistryError:
        return RegistryError(
            "the registry %s answers with status %d, which no registry does here: is it one?"
            % (self.reference.host, response.status_code)
        )


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _oras_client(reference: Reference, action: str) -> Tuple[Any, Any]:
    """(client, container): oras's, of which `do_request` asks once, or once more with what a challenge wants. It raises
    RegistryError for an answer of 400 or more, except for 404 to a HEAD."""
    oras = _oras()
    from requests.exceptions import RequestException

    origin = origin_of("%s://%s/" % (reference.scheme, reference.host), reference)
    trusted: Set[Origin] = {origin}

    class Client(oras.client.OrasClient):  # type: ignore[name-defined]
        sent: Optional[Sent] = None

        # oras's own tries again whatever the error is, five times, for two minutes.
        def do_request(
            self,
            url: str,
            method: str = "GET",
            data: Any = None,
            headers: Any = None,
            json: Any = None,
            stream: bool = False,
        ) -> Any:
            origin_of(url, reference)  # before requests quotes what is none
            headers = dict(headers or {})
            response = self._ask(method, url, data, dict(headers, **self.auth.get_auth_header()), stream)
            if response.status_code in (401, 403):
                with_help, changed = self.auth.authenticate_request(response, headers)
                if changed:
                    response.close()
                    response = self._ask(method, url, data, with_help, stream)
            if response.status_code >= 400 and not (method == "HEAD" and response.status_code == 404):
                raise refusal(reference, action, response, url)
            return response

        def _ask(self, method: str, url: str, data: Any, headers: Dict[str, str], stream: bool) -> Any:
            body = _Body(data, self.sent) if isinstance(data, bytes) else data
            try:
                return self.session.request(method, url, data=body, headers=headers, stream=stream)
            except (RequestException, ValueError) as error:  # ValueError: of a redirect to what is no address
                raise failure(reference, error) from None

    client = Client(hostname=reference.host, insecure=reference.scheme == "http")
    client.session = guarded_session(reference, trusted)
    client.auth = registry_auth(reference, client.session, trusted)
    container = client.get_container("registry.invalid/x:x")
    container.registry, container.digest = reference.host, reference.digest
    namespace, _, container.repository = reference.repository.rpartition("/")
    container.namespace, container.tag = namespace or None, reference.tag
    return client, container


class _Body(io.BytesIO):
    """What is sent, and says how much of it is out."""

    def __init__(self, data: bytes, sent: Optional[Sent]) -> None:
        super().__init__(data)
        self._sent = sent

    def read(self, size: Optional[int] = -1) -> bytes:
        piece = super().read(size)
        if self._sent is not None:
            self._sent(self.tell())
        return piece


def _oras() -> Any:
    way_out = (
        "pip install 'da3[oci]'. Without it, take the pack as a file to where the bundle is: "
        "`da3 domains add FILE` adds it"
    )
    try:
        import oras.client
    except ImportError as error:
        if (getattr(error, "name", None) or "").split(".")[0] in ("oras", "requests", "jsonschema"):
            raise RegistryError("registries need the package oras: %s" % way_out) from None
        raise RegistryError("the package oras does not load (%s): %s" % (str(error).split("\n")[0], way_out)) from None
    version = distribution_version("oras") or "0"
    if tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) < _OLDEST:
        raise RegistryError("oras %s is too old: %s" % (version, way_out))
    return oras
