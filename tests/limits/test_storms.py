"""Many at once, and many who leave: no reply goes astray, no budget is passed, no call fails."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.limits.redis_url import place
from gateway.limits.store import Command, Store
from gateway.limits.wires import wire
from tests.harness import caller, chat, request
from tests.limits.replicas import HASTY, NANO_A_TOKEN, SOFT, Load, at_rest, changes, held, replicas, spent
from tests.limits.stage import Gate, answering
from tests.limits.test_outages import (
    Happening,
    a_master,
    a_replica,
    at_rest_under,
    full,
    gone_on,
    killed,
    nothing,
    paused,
    roomy,
    started,
    stopped,
)
from tests.limits.test_shared import burst
from tests.redis_server import RedisServer, redis_server

ECHO = "#!lua name=echo1\nredis.register_function('echo1', function(keys, args) return args[1] end)"


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as found:
        yield found


@pytest.mark.parametrize("count", [10_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
async def test_d10_a_cancelled_command_leaves_its_reply_to_nobody_else(redis: RedisServer, count: int):
    await redis.say("FUNCTION", "LOAD", ECHO)
    store, chance = Store(wire(place(redis.url), 20.0)), random.Random(1)
    wrong = answered = 0

    async def one(number: int) -> None:
        nonlocal wrong, answered
        future = store.send(Command("echo1", ["k"], [number]))
        if chance.random() < 0.3:
            asyncio.get_running_loop().call_later(chance.random() / 500, future.cancel)
        try:
            wrong += await future != b"%d" % number
            answered += 1
        except asyncio.CancelledError:
            return

    for begin in range(0, count, 500):
        await asyncio.gather(*(one(number) for number in range(begin, begin + 500)), return_exceptions=True)
    assert wrong == 0
    assert answered >= count * 0.7 - 500
    await store.aclose()


async def test_who_leaves_at_any_moment_leaves_nothing_held(redis: RedisServer):
    chance = random.Random(2)
    async with replicas(redis.url, {**SOFT, "limits": {"concurrent": 1000}}) as (served, _):

        async def leave(number: int) -> None:
            async with caller(served[number % 2]) as client:
                await client.send(request(chat(max_tokens=10), authorization="Bearer key-a"))
                await asyncio.sleep(chance.random() / 50)
                client.reset()

        for begin in range(0, 300, 30):
            await asyncio.gather(*(leave(number) for number in range(begin, begin + 30)))
        await at_rest(served)
        assert await held(redis) == 0
        assert await redis.say("HGET", "arriero:{t:a}:key:a:concurrent", "h") in (b"0", b"$-1")


@pytest.mark.soak
@pytest.mark.parametrize("run", range(50))
async def test_fifty_times_exactly_ten_of_a_hundred(redis: RedisServer, run: int):
    gate = Gate()
    budget = {"usd": "0.001", "per": "day", "hard": True}
    async with replicas(redis.url, {"budget": budget}, script=answering(gate)) as (served, up):
        assert await burst(served, gate, 100, 90, max_tokens=100) == [200] * 10 + [429] * 90
        assert len(up.requests) == 10


async def flushed(redis: RedisServer) -> None:
    await redis.say("FLUSHALL")


ROUNDS = max(6, int(os.environ.get("ARRIERO_SOAK_CALLS", "0")) // 20_000)
ILLS: Sequence[tuple[Happening, Happening]] = (
    (killed, started),
    (stopped, gone_on),
    (paused, nothing),
    (a_replica, a_master),
    (full, roomy),
    (flushed, nothing),
)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_redis_is_ill_in_every_way_again_and_again(redis: RedisServer):
    """No call fails, and in the end what Redis has counted is what was answered, to the nano-dollar."""
    chance = random.Random(3)
    async with replicas(redis.url, SOFT, store=HASTY) as (served, _), Load(served, callers=8) as load:
        for _ in range(ROUNDS):
            for happens, ends in chance.sample(ILLS, len(ILLS)):
                await load.more(60)
                await happens(redis)
                await load.more(60)
                await ends(redis)
                await at_rest_under(load)
        tokens = await load.end()
        await at_rest(served)
        assert await spent(redis) == tokens * NANO_A_TOKEN
        assert await held(redis) == 0
        for one in served:
            words = changes(one)
            assert words == ["redis_away", "redis_back"] * (len(words) // 2), "a line for each change, and no other"
