"""Databricks' tokens for service principals, at the sandbox's token endpoint and at servers that misbehave."""

import pytest
from aiohttp import web

from gateway.account import Account
from gateway.errors import UpstreamError
from gateway.secret import Secret
from providers.credentials.databricks import ServicePrincipal
from sandbox.oauth import CLIENT_ID, CLIENT_SECRET
from sandbox.run import Sandbox
from tests.credentials.servers import listening


def principal(url: str, secret: str = CLIENT_SECRET) -> ServicePrincipal:
    return ServicePrincipal(Account().token_origin(url), CLIENT_ID, Secret(secret))


async def test_a_token_is_had_for_the_id_and_the_secret() -> None:
    async with Sandbox(port=0, clouds=["databricks"]) as box:
        await box.change("databricks", {"token_ttl_s": 120.0})
        source = principal(box.origins["databricks"] + "/serving-endpoints")
        first, second = await source.fetch(), await source.fetch()
        await source.aclose()
    assert first.life_s == 120
    assert first.value != second.value


async def test_a_wrong_secret_is_said_in_oauths_word_and_not_shown() -> None:
    async with Sandbox(port=0, clouds=["databricks"]) as box:
        source = principal(box.origins["databricks"], "wrong-secret-7788")
        with pytest.raises(UpstreamError) as refused:
            await source.fetch()
        await source.aclose()
    assert refused.value.status == 401
    assert "/oidc/v1/token answered 401 invalid_client" in refused.value.message
    assert "wrong-secret" not in f"{refused.value!r} {source!r} {vars(source)}"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "no json secret-token"),
        (200, '{"access_token": "", "expires_in": 5}'),
        (200, '{"access_token": "secret-token\\r\\nx: y", "expires_in": 5}'),
        (200, '{"access_token": "secret-token"}'),
        (200, '["secret-token"]'),
        (500, '{"error": "the secret-token is"}'),
        (302, "secret-token"),
    ],
)
async def test_an_answer_that_is_no_token_is_refused_without_a_word_of_it(status: int, body: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    async with listening({"/oidc/v1/token": answer}) as url:
        source = principal(url)
        with pytest.raises(UpstreamError) as refused:
            await source.fetch()
        await source.aclose()
    assert refused.value.status == 401
    assert "secret-token" not in refused.value.message


async def test_a_token_endpoint_that_is_not_there_is_named() -> None:
    async with listening({}) as url:
        pass
    source = principal(url)
    with pytest.raises(UpstreamError, match=url.removeprefix("http://")):
        await source.fetch()
    await source.aclose()
