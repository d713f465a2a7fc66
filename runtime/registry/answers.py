"""What a registry's refusals, and connections that come to nothing, mean in a line. Nothing of what it sent is quoted
but an error code of the specification: an answer may repeat the password that it was sent."""

import re
import socket
from typing import Any, Optional

from ..bundle.jsonfile import read_json
from ..errors import RegistryError
from .reference import Reference

PUSH, PULL = "push", "pull"
CONNECT_S = 7.0  # for each of a host's addresses; most have two at most
SILENCE_S = 30.0  # between two pieces of an answer
_CODE = re.compile(r"[A-Z][A-Z_]{1,39}\Z")


class BrokenOff(RegistryError):
    """A connection ended, or fell silent, amid an answer: asking again may go on."""


def refusal(reference: Reference, action: str, response: Any, url: str) -> RegistryError:
    """The error for an answer of 400 and above. response: of requests."""
    status = int(response.status_code)
    code = error_code(response)
    said = "status %d%s" % (status, ", %s" % code if code else "")
    where = "the registry %s" % reference.host
    if status == 401:
        return RegistryError(
            "%s wants a user and a password that it accepts (%s): `docker login %s`" % (where, said, reference.host)
        )
    if status == 403:
        return RegistryError(
            "%s does not let you %s %s (%s): ask whoever runs it, or `docker login %s` as another user"
            % (where, action, reference.repository, said, reference.host)
        )
    if status == 404 and code == "NAME_UNKNOWN":
        return RegistryError("%s has no repository %s (%s)" % (where, reference.repository, said))
    if status == 404 and action == PULL:
        if "/blobs/" in url:
            return RegistryError(
                "%s has the manifest of %s and no longer its layer (%s): it was replaced or deleted meanwhile: "
                "pull again, or push it again" % (where, reference, said)
            )
        return RegistryError("there is no %s (%s)" % (reference, said))
    if status in (405, 415) and action == PUSH:
        return RegistryError("%s takes nothing: it is read-only, or takes no artifacts (%s)" % (where, said))
    if status == 413:
        return RegistryError("%s takes nothing as large as this pack (%s)" % (where, said))
    if status == 429:
        return RegistryError("%s has had too many requests from here (%s): try again later" % (where, said))
    if status >= 500:
        return RegistryError("%s failed (%s): try again later, or look into its log" % (where, said))
    return RegistryError("%s refuses to %s %s (%s)" % (where, action, reference, said))


def error_code(response: Any) -> str:
    """The first error code of an answer's body, such as MANIFEST_UNKNOWN; "" where it has none."""
    try:
        code = read_json(response.content)["errors"][0]["code"]
    except (ValueError, LookupError, TypeError):
        return ""
    return code if isinstance(code, str) and _CODE.match(code) else ""


def failure(reference: Reference, error: BaseException) -> RegistryError:
    """The error for a request that got no whole answer. error: what requests, or what it uses, raised."""
    from requests import exceptions

    where = "the registry %s" % reference.host
    if isinstance(error, exceptions.SSLError):
        return RegistryError(
            "%s: its certificate is not trusted here, or it speaks no TLS: name the file of your CA in "
            "REQUESTS_CA_BUNDLE; plain HTTP is for this machine alone (localhost)" % where
        )
    if isinstance(error, exceptions.ProxyError):
        return RegistryError("%s: the proxy that HTTPS_PROXY names does not connect to it" % where)
    if isinstance(error, exceptions.ConnectTimeout):
        return RegistryError("%s does not answer: no connection within %d s" % (where, CONNECT_S))
    if isinstance(error, exceptions.ReadTimeout):
        return BrokenOff("%s fell silent: nothing for %d s" % (where, SILENCE_S))
    if isinstance(error, exceptions.TooManyRedirects):
        return RegistryError("%s redirects in a circle" % where)
    if isinstance(error, (exceptions.InvalidSchema, exceptions.InvalidURL, exceptions.MissingSchema)):
        return RegistryError("%s leads to what is no address of HTTP" % where)
    below = _socket_error(error)
    if isinstance(below, socket.gaierror):
        return RegistryError("%s cannot be reached: no host of this name is known" % where)
    if isinstance(below, ConnectionRefusedError):
        return RegistryError("%s cannot be reached: nothing listens there" % where)
    if isinstance(below, (ConnectionError, socket.timeout)) or isinstance(error, exceptions.ChunkedEncodingError):
        return BrokenOff("%s: the connection broke off" % where)
    if below is not None:
        return RegistryError("%s cannot be reached: %s" % (where, below.strerror or type(below).__name__))
    if isinstance(error, exceptions.ConnectionError):
        return BrokenOff("%s: the connection broke off" % where)
    return RegistryError("%s does not answer as a registry does: is it one?" % where)


def _socket_error(error: Optional[BaseException]) -> Optional[OSError]:
    """The system's own error that is at the bottom of one of requests' or urllib3's."""
    from requests.exceptions import RequestException  # which is an OSError too

    for _ in range(10):
        if error is None:
            break
        if isinstance(error, OSError) and not isinstance(error, RequestException):
            return error
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None
