"""`ca_file` where tokens come from: the account's own authorities are good there, and the system's stay so."""

import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from gateway.account import USUAL, Account, Reach
from gateway.errors import UpstreamError
from gateway.secret import Secret
from gateway.transport.dial import Trust
from providers.credentials import aws, azure, databricks, gcp
from providers.credentials.oci_tokens import InstancePrincipal
from providers.credentials.sigv4 import Keys
from sandbox import _bedrock_auth as box_auth
from sandbox import _bedrock_tokens as box_tokens
from sandbox.oauth import CLIENT_ID, CLIENT_SECRET
from sandbox.run import Sandbox
from tests.credentials.entra import TENANT, entra
from tests.credentials.servers import listening
from tests.credentials.test_google import key_file


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def own(authority: trustme.CA, tmp_path: Path) -> Reach:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return Account(ca_file=str(tmp_path / "ca.pem")).token_origin


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    async with Sandbox(port=0, clouds=["azure", "bedrock", "databricks", "oci", "vertex"]) as made:
        yield made


def front(authority: trustme.CA, origin: str) -> contextlib.AbstractAsyncContextManager[str]:
    """TLS in front of a cloud of the box, as `localhost`."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)

    async def pass_on(request: web.Request) -> web.Response:
        kept = {k: v for k, v in request.headers.items() if k.lower() not in ("content-length", "transfer-encoding")}
        async with (
            aiohttp.ClientSession(skip_auto_headers=["accept", "accept-encoding", "user-agent"]) as client,
            client.request(request.method, origin + request.path, data=await request.read(), headers=kept) as answer,
        ):
            kind = answer.headers.get("content-type", "text/plain").partition(";")[0]
            return web.Response(status=answer.status, body=await answer.read(), content_type=kind)

    return listening({"/{path:.*}": pass_on}, tls)


async def test_databricks(authority: trustme.CA, own: Reach, box: Sandbox) -> None:
    async with front(authority, box.origins["databricks"]) as url:
        for reach, good in ((own, True), (USUAL, False)):
            source = databricks.ServicePrincipal(reach(url), CLIENT_ID, Secret(CLIENT_SECRET))
            assert await fetched(source.fetch) is good
            await source.aclose()


async def test_google(authority: trustme.CA, own: Reach, box: Sandbox, tmp_path: Path) -> None:
    async with front(authority, box.origins["vertex"]) as url:
        file = key_file(box, tmp_path / "key.json", token_uri=url + "/token")
        assert await fetched(gcp.Google(file, reach=own).fetch)
        assert not await fetched(gcp.Google(file).fetch)


async def test_entra(authority: trustme.CA, own: Reach, box: Sandbox) -> None:
    async with entra(box, authority) as found:
        said = azure.Entra(
            tenant=TENANT, client_id=CLIENT_ID, client_secret=Secret(CLIENT_SECRET), authority=found.host
        )
        assert await fetched(azure.Identity(said, serverless=False, reach=own).fetch)
        assert not await fetched(azure.Identity(said, serverless=False).fetch)


async def test_aws(authority: trustme.CA, own: Reach, box: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    role = aws.Role(
        box_tokens.ROLE_ARN,
        box_auth.REGION,
        box_tokens.EXTERNAL_ID,
        keys=lambda: Keys(box_auth.ACCESS_KEY_ID, box_auth.SECRET_ACCESS_KEY),
    )
    async with front(authority, box.origins["bedrock"]) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        for ca_file, good in ((own(url).ca_file, True), (None, False)):
            source = aws.Chain(None, time.monotonic, network=aws.Network(ca_file=ca_file), role=role)
            assert await fetched(source.get) is good
            await source.aclose()


async def test_oracle(authority: trustme.CA, own: Reach, box: Sandbox) -> None:
    async with front(authority, box.origins["oci"]) as url:
        for reach, good in ((own, True), (USUAL, False)):
            source = InstancePrincipal(box.origins["oci"] + "/opc/v2", url, reach=reach)
            assert await fetched(source.get) is good
            await source.aclose()


async def fetched(fetch: Callable[[], Awaitable[object]]) -> bool:
    try:
        await fetch()
    except UpstreamError:
        return False
    return True


def test_the_systems_authorities_stay_good_where_tokens_come_from(own: Reach) -> None:
    url = "https://login.example"
    origin = own(url)
    narrow, wide = Trust(origin.ca_file).context(), Trust(origin.ca_file, origin.trust_system).context()
    assert len(narrow.get_ca_certs()) == 1
    assert len(wide.get_ca_certs()) == 1 + len(ssl.create_default_context().get_ca_certs())
    assert wide.verify_mode == ssl.CERT_REQUIRED
    assert wide.check_hostname
