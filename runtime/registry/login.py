"""Who is asking: what a registry's challenge is answered with, by Basic or by a token of its token service.

oras 0.2 takes every challenge for a Bearer's: it sends the password to whatever a Basic one calls its realm; it keeps a
token that was for reading when writing is refused; and it looks at no DOCKER_CONFIG.
"""

from typing import Any, Dict, Optional, Set, Tuple

from ..errors import RegistryError
from .answers import failure
from .credentials import find_credentials
from .guard import Origin, origin_of
from .reference import Reference


def registry_auth(reference: Reference, session: Any, trusted: Set[Origin]) -> Any:
    """What oras's client asks how to answer a challenge. Docker's configuration is read when there is one."""
    from oras.auth.token import TokenAuth
    from oras.auth.utils import parse_auth_header
    from requests.exceptions import RequestException

    class Auth(TokenAuth):  # of oras, whose token service it uses
        def __init__(self) -> None:
            super().__init__()
            self.session, self.prefix, self._tls_verify = session, reference.scheme, True
            self._scheme = "Bearer"
            self._asked = False

        def get_auth_header(self) -> Dict[str, str]:
            return {"Authorization": "%s %s" % (self._scheme, self.token)} if self.token else {}

        def authenticate_request(self, original: Any, headers: Any, refresh: bool = False) -> Tuple[Any, bool]:
            """(headers, whether to try again with them)."""
            challenge = original.headers.get("Www-Authenticate") or ""
            scheme = challenge.partition(" ")[0].lower()
            if not self._asked:
                self._asked = True
                known = find_credentials(reference.host)
                if known is not None:
                    self.set_basic_auth(known.user, known.password)
            before = self.get_auth_header()
            if scheme == "basic":
                self._scheme, self.token = "Basic", getattr(self, "_basic_auth", None)
            elif scheme == "bearer":
                self._scheme, self.token = "Bearer", self._token(parse_auth_header(challenge))
            now = self.get_auth_header()
            return dict(headers, **now), bool(now) and now != before

        def _token(self, challenge: Any) -> Optional[str]:
            service = origin_of(challenge.realm or "", reference)
            added = {service} - trusted
            trusted.update(added)
            try:
                ask = self.request_token if hasattr(self, "_basic_auth") else self.request_anonymous_token
                token = ask(challenge)
            except (ValueError, AttributeError, TypeError):  # among them what requests raises for what is no JSON
                raise RegistryError("the token service of %s answers with no token" % reference.host) from None
            except RequestException as error:
                raise failure(reference._replace(host=service[1]), error) from None
            finally:
                trusted.difference_update(added)
            return token if isinstance(token, str) and token and token.isprintable() else None

    return Auth()
