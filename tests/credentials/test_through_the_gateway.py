"""Calls by the OpenAI SDK through the gateway to clouds that are paid with tokens which the gateway fetches itself."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import trustme
import yaml

from sandbox.oauth import CLIENT_ID, CLIENT_SECRET
from sandbox.run import Sandbox
from sandbox.vertex import CLOUD as VERTEX
from tests.credentials.entra import TENANT, Front, entra
from tests.credentials.servers import listening
from tests.harness import Served, serving

HELLO: Any = [{"role": "user", "content": "Tell me of llamas"}]
MODEL = "llama-3.1-8b"
CLOUDS = ("azure", "databricks", "vertex")


@contextlib.asynccontextmanager
async def paid_with_tokens(
    box: Sandbox, cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Any]]:
    """The sandbox's own account of a cloud, its fixed credential taken out and a way to tokens put in."""
    account = yaml.safe_load(box.config_text())["providers"][cloud]
    account.pop("api_key", None)
    account.pop("token", None)
    if cloud == "vertex":
        file = tmp_path / "key.json"
        file.write_text(json.dumps(VERTEX.service_account(box.origins["vertex"])))
        yield {**account, "credentials_file": str(file)}
    elif cloud == "databricks":
        yield {**account, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    else:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        async with entra(box, ca) as front:
            yield {**account, "entra": of(front)}


def of(front: Front) -> dict[str, str]:
    return {"tenant": TENANT, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "authority": front.host}


def config(box: Sandbox, cloud: str, account: dict[str, Any]) -> dict[str, Any]:
    found = yaml.safe_load(box.config_text())["routes"][MODEL]["deployments"]
    deployment = next(d for d in found if d["account"] == cloud)
    return {"providers": {cloud: account}, "routes": {MODEL: {"deployments": [deployment], "policies": []}}}


def sdk(served: Served) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0)


def chats(box: Sandbox) -> list[str]:
    """The sandbox's judgement of the credential of each chat so far."""
    return [call["credential"] for call in box.calls() if "chat/completions" in call["path"]]


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_plain_and_streamed_calls_are_served(cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        Sandbox(port=0, clouds=[cloud]) as box,
        paid_with_tokens(box, cloud, tmp_path, monkeypatch) as account,
        serving(config(box, cloud, account)) as served,
        sdk(served) as client,
    ):
        plain = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20)
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
        assert text == plain.choices[0].message.content
        assert chats(box) == ["ok", "ok"]
        token = served.gateway.fleet.providers[cloud].secrets[-1]
        said = (
            json.dumps(served.log()) + served.metrics() + repr(served.decisions()) + repr(served.gateway.fleet.config)
        )
        assert len(token) > 20
        for secret in (token, CLIENT_SECRET, "PRIVATE KEY"):
            assert secret not in said


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_hundred_first_calls_share_one_token(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Sandbox(port=0, clouds=[cloud]) as box,
        paid_with_tokens(box, cloud, tmp_path, monkeypatch) as account,
        serving(
            config(box, cloud, {**account, "timeouts": {"connect_s": 20}})
        ) as served,  # all at once, on any machine
        sdk(served) as client,
    ):
        calls = [client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1) for _ in range(100)]
        assert len(await asyncio.gather(*calls)) == 100
        assert len(box.servers[cloud].site.tokens) == 1


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_token_that_the_cloud_forgot_is_replaced_within_the_call(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Sandbox(port=0, clouds=[cloud]) as box,
        paid_with_tokens(box, cloud, tmp_path, monkeypatch) as account,
        serving(config(box, cloud, account)) as served,
        sdk(served) as client,
    ):
        await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
        box.servers[cloud].site.tokens.clear()
        await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
        assert chats(box) == ["ok", "bad", "ok"]
        assert [call["status"] for call in served.calls()] == [200, 200]
        box.servers[cloud].site.tokens.clear()  # at once again: no third token, the attempt is judged as it is
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)
        assert chats(box) == ["ok", "bad", "ok", "bad"]
        await served.at_rest()


async def test_a_cloud_without_its_token_leaves_the_call_to_the_next() -> None:
    async with Sandbox(port=0, clouds=["databricks", "groq"]) as box, listening({}) as nowhere:
        found = yaml.safe_load(box.config_text())
        machine = {"type": "databricks", "url": nowhere, "client_id": "c", "client_secret": "the-secret-9988"}
        deployments = [{"account": "databricks", "model": "m"}, {"account": "groq", "model": "llama-3.1-8b-instant"}]
        document = {
            "providers": {"databricks": machine, "groq": found["providers"]["groq"]},
            "routes": {MODEL: {"deployments": deployments, "policies": []}},
        }
        async with serving(document) as served, sdk(served) as client:
            answer = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, max_tokens=1)
            assert answer.status_code == 200
            first, second = served.decisions()[0].attempts
            assert (first.deployment, second.deployment) == ("databricks", "groq")
            assert "/oidc/v1/token answered 404" in str(first.message)
            assert "the-secret" not in json.dumps(served.log()) + str(first)
