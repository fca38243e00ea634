"""Failure catalogue E8: the wall clock jumps, or two replicas disagree about the time; nothing that is timed minds."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest

from tests.failures.stage import DONE, ROLE
from tests.harness import (
    STREAM_HEAD,
    Clock,
    Connection,
    answer_bytes,
    ask,
    caller,
    chat,
    chunk,
    config,
    delta,
    eventually,
    request,
    route,
    serving,
    upstream,
)
from tests.redis_server import redis_server

HOUR_S = 3600.0


class Wall:
    """This machine's time and a mistake."""

    def __init__(self, off_s: float = 0.0) -> None:
        self.off_s = off_s

    def __call__(self) -> float:
        return time.time() + self.off_s


async def answering(connection: Connection) -> None:
    while await connection.request():
        await connection.send(answer_bytes())


def limited(url: str, rpm: int, **more: Any) -> dict[str, Any]:
    return config({"r": route("a")}, a=url) | {"keys": [{"name": "k", "key": "key-k", "limits": {"rpm": rpm}}], **more}


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
async def test_e8_a_clock_that_jumps_by_an_hour_cuts_no_call_and_moves_no_limit(jump_s: float) -> None:
    released = asyncio.Event()

    async def script(connection: Connection) -> None:
        while data := await connection.request():
            if b'"stream":true' not in data:
                await connection.send(answer_bytes())
                continue
            await connection.send(STREAM_HEAD + chunk(ROLE) + chunk(delta("first ")))
            await released.wait()
            await connection.send(chunk(delta("last")) + chunk(delta(None, "stop") + DONE) + chunk(b""))

    wall, clock, key = Wall(), Clock(), {"authorization": "Bearer key-k"}
    async with contextlib.AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upstream(script))
        served = await stack.enter_async_context(serving(limited(cloud.url, 3), clock, wall))
        streaming = await stack.enter_async_context(caller(served))
        await streaming.send(request(chat(stream=True), **key))
        assert await streaming.head() == 200
        wall.off_s = jump_s
        assert (await ask(served, x_arriero_timeout_s="5", **key)).status == 200
        assert (await ask(served, **key)).status == 200
        refused = await ask(served, **key)
        assert refused.status == 429
        assert 0 < float(refused.headers["retry-after"]) <= 60
        clock.advance(61)
        assert (await ask(served, **key)).status == 200
        released.set()
        text = b""
        while piece := await streaming.piece():
            text += piece
        assert text.endswith(DONE)
        assert b'"error"' not in text


async def test_e8_replicas_whose_clocks_are_ten_minutes_apart_keep_one_limit(tmp_path: Path) -> None:
    async with upstream(answering) as cloud, redis_server(tmp_path) as redis, contextlib.AsyncExitStack() as stack:
        document = limited(cloud.url, 10, store={"redis": redis.url, "redis_timeout_s": 10, "ledger": "none"})
        behind, before = [
            await stack.enter_async_context(serving(document, wall=Wall(off_s))) for off_s in (-300.0, 300.0)
        ]
        calls = [ask(served, authorization="Bearer key-k") for served in (behind, before) * 10]
        assert sorted([answer.status for answer in await asyncio.gather(*calls)]) == [200] * 10 + [429] * 10
        await eventually(lambda: not (len(behind.gateway.live) or len(before.gateway.live)), "calls are still live")
