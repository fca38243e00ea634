"""Databricks' tokens for machines: a service principal's id and secret at the workspace's own token endpoint.

Source: docs.databricks.com OAuth machine-to-machine; litellm 1.109.1 `common_utils`. Run against the sandbox only."""

import base64
import time
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import msgspec

from gateway.errors import UpstreamError
from gateway.secret import Secret
from gateway.transport.client import Client, Origin, request_head
from providers.credentials.access_token import oauth_code, unavailable
from providers.credentials.tokens import Lease

PATH = "/oidc/v1/token"
_BODY = urlencode({"grant_type": "client_credentials", "scope": "all-apis"}).encode()


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float


class ServicePrincipal:
    """A Source of access_token.py. The secret is read anew for every token."""

    def __init__(
        self, origin: Origin, client_id: str, secret: Secret, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`origin` is the workspace's."""
        self._client_id, self._secret, self._host = client_id, secret, urlsplit(origin.url).netloc
        self._client = Client(origin, clock)

    def stamp(self) -> object:
        return self._secret.reveal()

    async def fetch(self) -> Lease[str]:
        basic = base64.b64encode(f"{self._client_id}:{self._secret.reveal()}".encode()).decode()
        headers = [
            ("authorization", f"Basic {basic}"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
        ]
        head = request_head("POST", PATH, self._host, headers, len(_BODY))
        try:
            response = await self._client.request(head, _BODY)
            try:
                return _lease(f"{self._host}{PATH}", response.status, await response.read())
            finally:
                response.close()
        except UpstreamError as error:
            raise unavailable(f"it got no token: {error.message}") from error

    async def aclose(self) -> None:
        await self._client.aclose()


def _lease(where: str, status: int, body: bytes) -> Lease[str]:
    """The token of an answer. Raises UpstreamError that shows none of it."""
    try:
        if status == 200:
            granted = msgspec.json.decode(body, type=_Granted)
            if granted.access_token.isascii() and granted.access_token.isprintable() and granted.access_token:
                return Lease(granted.access_token, granted.expires_in)
        said = oauth_code(msgspec.json.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        said = ""
    if status == 200:
        raise unavailable(f"{where} gave no token that can be used")
    raise unavailable(f"{where} answered {status}{said}")
