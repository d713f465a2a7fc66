"""Where requests to a registry may go, what they carry, how long they wait, and how large an answer may be.

oras 0.2 leaves this to requests, which waits for ever, reads answers of any size, follows a redirect from HTTPS to
HTTP, and takes passwords from ~/.netrc; and it sends its token wherever the Location of an upload points.
"""

import io
import time
from typing import Any, Dict, Set, Tuple
from urllib.parse import urlsplit

from ..errors import RegistryError, quoted
from ..system.sizes import render_bytes
from ..system.versions import VERSION
from .answers import CONNECT_S, SILENCE_S, BrokenOff
from .reference import Reference, is_loopback

ANSWER_LIMIT = 1 << 20  # bytes of an answer that is no layer
ANSWER_S = 60.0  # for all of such an answer
_REDIRECTS = 5
_PIECE = 16 << 10

Origin = Tuple[str, str, int]  # scheme, name or address, port


def guarded_session(reference: Reference, trusted: Set[Origin]) -> Any:
    """A requests.Session for the registry of `reference`. trusted: who may be sent an Authorization; it is looked at
    for each request, those that redirects ask for too. What breaks a rule raises RegistryError."""
    import requests
    from requests.adapters import HTTPAdapter
    from requests.cookies import RequestsCookieJar

    class Guard(HTTPAdapter):
        def send(
            self,
            request: Any,
            stream: bool = False,
            timeout: Any = None,
            verify: Any = True,
            cert: Any = None,
            proxies: Any = None,
        ) -> Any:
            target = origin_of(request.url, reference)
            if target[0] != "https":
                _check_plain(target, reference)
                proxies = None  # or what is for this machine alone would go to the proxy's
            if target not in trusted:
                request.headers.pop("Authorization", None)
            response = super().send(request, True, (CONNECT_S, SILENCE_S), verify, cert, proxies)
            if not stream or response.is_redirect or response.status_code >= 400:
                whole = io.BytesIO(_read_bounded(response, reference))
                response.close()
                response.raw = whole
            return response

    class Session(requests.Session):
        def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
            """Whoever a redirect leads to gets no password of ~/.netrc; what it may keep, `Guard` says."""

    session = Session()
    session.auth = _as_it_is  # requests would look into ~/.netrc otherwise
    session.max_redirects = _REDIRECTS
    session.headers.update({"User-Agent": "da3/" + VERSION, "Accept-Encoding": "identity"})
    session.cookies = _no_cookies(RequestsCookieJar())
    for scheme in ("http://", "https://"):
        session.mount(scheme, Guard())
    return session


def origin_of(url: str, reference: Reference) -> Origin:
    """Raises RegistryError for what is no address of HTTP. reference: for errors: its registry named that address."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return parts.scheme, (parts.hostname or "").lower(), port
    except (ValueError, KeyError):
        raise RegistryError(
            "the registry %s leads to what is no address of HTTP: %s" % (reference.host, quoted(url.partition("?")[0]))
        ) from None


def _check_plain(target: Origin, reference: Reference) -> None:
    """Plain HTTP is for a registry on this machine, and nobody else may lead here."""
    if not (target[0] == "http" and reference.loopback and is_loopback(target[1])):
        raise RegistryError(
            "the registry %s leads to %s://%s: plain HTTP is for registries on this machine alone, others want https"
            % (reference.host, target[0], target[1])
        )


def _read_bounded(response: Any, reference: Reference) -> bytes:
    """The body of an answer that is no layer."""
    until = time.monotonic() + ANSWER_S
    body = bytearray()
    for piece in pieces(response, reference):
        body += piece
        if len(body) > ANSWER_LIMIT:
            response.close()
            raise RegistryError(
                "the registry %s answers with more than %s, which no manifest has"
                % (reference.host, render_bytes(ANSWER_LIMIT))
            )
        if time.monotonic() > until:
            response.close()
            raise BrokenOff("the registry %s took more than %d s for an answer" % (reference.host, ANSWER_S))
    return bytes(body)


def pieces(response: Any, reference: Reference) -> Any:
    """The bytes of an answer as they come in, as they were sent. Raises BrokenOff where it ends before its end."""
    read = getattr(response.raw, "read1", response.raw.read)  # which gives what is there, and waits for no whole piece
    while True:
        try:
            piece = read(_PIECE)
        except Exception:  # urllib3 has a dozen, http.client and the system others
            raise BrokenOff("the registry %s: the connection broke off" % reference.host) from None
        if not piece:
            return
        yield piece


def _as_it_is(request: Any) -> Any:
    return request


def _no_cookies(jar: Any) -> Any:
    from http.cookiejar import DefaultCookiePolicy

    jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return jar


def header(response: Any, name: str) -> str:
    headers: Dict[str, str] = response.headers
    return headers.get(name) or ""
