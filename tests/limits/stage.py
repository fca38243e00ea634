"""A gateway with limits before one upstream whose answers cost what a test says."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tests.harness import Answer, Served, Upstream, ask, chat, config, json_answer, route, serving, upstream
from tests.harness import Connection as Peer

PRICE = {"in": 0, "out": 1}
"""A dollar for a million output tokens, so that a token costs 1,000 nano-dollars and a prompt nothing."""
Before = Callable[[dict[str, Any]], Awaitable[None]]


def completion(prompt: int, output: int) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return json_answer(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


def answering(before: Before | None = None, output: int | None = None) -> Callable[[Peer], Awaitable[None]]:
    """Gives as many tokens as asked for, or `output`; after `before`, which is told the body."""

    async def script(peer: Peer) -> None:
        while data := await peer.request():
            body = json.loads(data.partition(b"\r\n\r\n")[2])
            if before is not None:
                await before(body)
            await peer.send(completion(3, body.get("max_tokens", 0) if output is None else output))

    return script


def limited(url: str, *keys: dict[str, Any], teams: list[dict[str, Any]] | None = None, **of_route: Any) -> Any:
    """A config of one route at that upstream. A key without a name is 'a'."""
    deployment = {"account": "up", "model": "m", "price": PRICE, "max_output_tokens": 1000}
    found = config(
        {"r": route(deployment, **of_route), "other": route(deployment)}, up={"url": url, "timeouts": {"connect_s": 20}}
    )
    if keys:
        found["keys"] = [{"name": "a", "key": "key-a", **key} for key in keys]
    return {**found, **({"teams": teams} if teams else {})}


@contextlib.asynccontextmanager
async def stage(
    *keys: dict[str, Any], script: Any = None, clock: Any = None, wall: Any = None, **more: Any
) -> AsyncIterator[tuple[Served, Upstream]]:
    async with (
        upstream(script or answering()) as found,
        serving(limited(found.url, *keys, **more), clock, wall) as served,
    ):
        yield served, found


async def call(served: Served, key: str = "key-a", model: str = "r", **fields: Any) -> Answer:
    return await ask(served, chat(model, **fields), authorization=f"Bearer {key}")


class Gate:
    """Holds the answers of an upstream until it is opened, and counts who came."""

    def __init__(self) -> None:
        self.came = 0
        self._open = asyncio.Event()

    async def __call__(self, body: dict[str, Any]) -> None:
        self.came += 1
        await self._open.wait()

    def open(self) -> None:
        self._open.set()
