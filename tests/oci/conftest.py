"""A gateway before the sandbox's Oracle, and OpenAI's SDK before the gateway."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from sandbox.oci import CLOUD
from sandbox.run import Sandbox
from tests.harness import Connection, Served, Upstream, serving, upstream

MODEL = "meta.llama-3.3-70b-instruct"


class Stage:
    """`client` asks for the route `r`; `served` is the gateway; `box` the clouds, or `cloud` a scripted Oracle."""

    box: Sandbox
    cloud: Upstream

    def __init__(self, served: Served, client: openai.AsyncOpenAI) -> None:
        self.served, self.client = served, client

    async def ask(self, **fields: Any) -> Any:
        """A plain answer."""
        known = {"model": "r", "messages": [{"role": "user", "content": "Hello"}]}
        return await self.client.chat.completions.create(**(known | fields))

    async def raw(self, **fields: Any) -> Any:
        """A plain answer with its headers."""
        known = {"model": "r", "messages": [{"role": "user", "content": "Hello"}]}
        return await self.client.chat.completions.with_raw_response.create(**(known | fields))

    async def stream(self, **fields: Any) -> list[Any]:
        """All chunks of a stream, with usage."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return [chunk async for chunk in await self.ask(**(options | fields))]

    def sent(self, place: int = -1) -> Any:
        """The chatRequest of a call as Oracle got it."""
        return json.loads(self.box.calls("oci")[place]["body"])["chatRequest"]

    def attempts(self) -> list[tuple[str, str]]:
        """(deployment, outcome) of each attempt of the last call."""
        return [(a.deployment, a.outcome) for a in self.served.decisions()[0].attempts]

    async def check(self) -> None:
        """Nothing stays taken and nothing of ours broke."""
        await self.served.at_rest()
        assert [record for record in self.served.log() if record["event"] == "bug"] == []


@contextlib.asynccontextmanager
async def staged(
    *more: Any, deployment: dict[str, Any] | None = None, policies: list[Any] | None = None, **account: Any
) -> AsyncIterator[Stage]:
    """A gateway whose route `r` is Oracle, then the deployments of `more`. `account` changes fields of the account;
    `{origin}` in them is where the sandbox's Oracle is."""
    async with Sandbox(port=0, clouds=["oci", "groq"]) as box:
        accounts = {name: server.cloud.account(server.origin()) for name, server in box.servers.items()}
        changes = {k: v.format(origin=box.origins["oci"]) if isinstance(v, str) else v for k, v in account.items()}
        accounts["oci"] = {k: v for k, v in (accounts["oci"] | changes).items() if v is not None}
        deployments = [{"account": "oci", "model": MODEL, **(deployment or {})}, *more]
        async with _gateway(accounts, deployments, policies) as stage:
            stage.box = box
            yield stage


@contextlib.asynccontextmanager
async def scripted(*answers: bytes, **account: Any) -> AsyncIterator[Stage]:
    """A gateway before an Oracle that gives these answers, byte for byte, one a request, the last again and again."""

    async def script(connection: Connection) -> None:
        left = list(answers)
        while await connection.request():
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    async with upstream(script) as cloud:
        accounts = {"oci": CLOUD.account(cloud.url.removesuffix("/v1")) | account}
        async with _gateway(accounts, [{"account": "oci", "model": MODEL}]) as stage:
            stage.cloud = cloud
            yield stage


@contextlib.asynccontextmanager
async def _gateway(
    accounts: dict[str, Any], deployments: list[Any], policies: list[Any] | None = None
) -> AsyncIterator[Stage]:
    config = {"providers": accounts, "routes": {"r": {"deployments": deployments, "policies": policies or []}}}
    async with (
        serving(config) as served,
        openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client,
    ):
        stage = Stage(served, client)
        yield stage
        await stage.check()


def streamed(*events: str, done: bool = True) -> bytes:
    """A whole HTTP answer with these events of Oracle's stream."""
    body = "".join(f"data: {event}\n\n" for event in (*events, *(["[DONE]"] if done else []))).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as found:
        yield found
