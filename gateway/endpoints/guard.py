"""Who may use the admin port: each of its routes names one scope, and a token has one.

Rule 1. `write` holds `read`. Without tokens whoever reaches the port may do all, which is then loopback.
Rule 2. Tokens are compared by keyed digest, all of them each time.
Rule 3. Without tokens a change is only taken under this machine's own name: a page in a browser here must not make one.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from fastapi import HTTPException, Request

from gateway.config.document import AdminToken

Scope = Literal["read", "write"]


class Admin(NamedTuple):
    """Who asks, and the routes that they may hand on."""

    name: str
    routes: tuple[str, ...]


LOCAL = Admin("local", ("*",))


class Guard:
    """One scope as a dependency of routes: it gives the Admin. `tokens` are those of the config in force."""

    def __init__(self, scope: Scope, tokens: Callable[[], Sequence[AdminToken]]) -> None:
        self.scope, self._tokens = scope, tokens
        self._pepper = secrets.token_bytes(32)

    def __call__(self, request: Request) -> Admin:
        """Raises HTTPException 401 for a missing or unknown token, 403 for one of a smaller scope."""
        tokens = self._tokens()
        if not tokens:
            return self._local(request)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        digest = self._digest(given.strip() if scheme.lower() == "bearer" else "")
        found = [token for token in tokens if hmac.compare_digest(self._digest(token.token.reveal()), digest)]
        if not found:
            raise HTTPException(
                401, "The admin token is missing or not known here: send `Authorization: Bearer <token>`."
            )
        if self.scope == "write" and found[0].scope != "write":
            raise HTTPException(403, f"The admin token '{found[0].name}' has scope read; this needs write.")
        return Admin(found[0].name, found[0].routes)

    def _local(self, request: Request) -> Admin:
        """Browsers say with `origin` whose page it is."""
        if request.app.state.exposed:
            raise HTTPException(403, "Beyond loopback the admin API needs `admin: {tokens: [...]}` in the config.")
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self.scope == "write" and not (_names_this_machine(host) and origin in (None, f"http://{host}")):
            raise HTTPException(403, "Changes without an admin token are taken at 127.0.0.1 or localhost only.")
        return LOCAL

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2s(token.encode(), key=self._pepper).digest()


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
