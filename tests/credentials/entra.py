"""Entra in front of the sandbox: the TLS and the discovery page that azure-identity insists on, assertions judged.

A secret is handed on to the sandbox as it came. An assertion (a certificate's, or a federated token) is judged here,
and then a token is had from the sandbox with its secret, so that the sandbox's clouds know it."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import jwt
import trustme
from aiohttp import web

from sandbox.oauth import CLIENT_ID, CLIENT_SECRET
from sandbox.run import Sandbox
from tests.credentials.servers import listening

TENANT = "0a0a0a0a-1b1b-2c2c-3d3d-4e4e4e4e4e4e"
Judge = Callable[[str, str], bool]
"""Whether an assertion is good, made for that token endpoint."""


def nobody(assertion: str, audience: str) -> bool:
    return False


class Front:
    """`asked` are the forms of the token requests so far."""

    def __init__(self, origin: str, judge: Judge) -> None:
        self.asked: list[dict[str, Any]] = []
        self.host = ""
        self._origin, self._judge = origin, judge

    async def discovery(self, request: web.Request) -> web.Response:
        base = f"https://{request.host}/{TENANT}"
        page = {
            "issuer": f"{base}/v2.0",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
        }
        return web.json_response(page)

    async def token(self, request: web.Request) -> web.Response:
        form = {str(name): str(value) for name, value in (await request.post()).items()}
        self.asked.append(form)
        if "client_assertion" in form:
            good = self._judge(form.pop("client_assertion"), f"https://{request.host}{request.path}")
            form["client_secret"] = CLIENT_SECRET if good else "not-good"
        async with aiohttp.ClientSession() as client, client.post(self._origin + request.path, data=form) as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")


@contextlib.asynccontextmanager
async def entra(box: Sandbox, ca: trustme.CA, judge: Judge = nobody) -> AsyncIterator[Front]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(tls)
    front = Front(box.origins["azure"], judge)
    pages = {
        f"/{TENANT}/v2.0/.well-known/openid-configuration": front.discovery,
        f"/{TENANT}/oauth2/v2.0/token": front.token,
    }
    async with listening(pages, tls) as url:
        front.host = url.removeprefix("https://")
        yield front


def signed_by(public_key: Any) -> Judge:
    """Judges a certificate's assertion (RFC 7523) by its signature, audience and issuer."""

    def judge(assertion: str, audience: str) -> bool:
        try:
            claims = jwt.decode(assertion, public_key, algorithms=["RS256", "PS256"], audience=audience)
        except jwt.InvalidTokenError:
            return False
        return bool(claims["iss"] == claims["sub"] == CLIENT_ID)

    return judge
