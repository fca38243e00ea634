"""Whatever happens to Redis: who has soft limits notices nothing, hard budgets hold, and the sums are right after."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from bench.process import free_port
from tests.harness import eventually
from tests.limits.replicas import (
    HARD,
    HASTY,
    NANO_A_TOKEN,
    PATIENT,
    SOFT,
    Load,
    at_rest,
    away,
    changes,
    held,
    replicas,
    spent,
)
from tests.limits.stage import Gate, answering, call
from tests.redis_server import RedisServer, proxy, redis_server


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as found:
        yield found


async def test_d1_without_redis_at_the_start_soft_keys_are_served_and_hard_ones_wait(tmp_path: Path):
    redis = RedisServer(tmp_path, port=free_port())
    began = time.monotonic()
    try:
        async with replicas([redis.url], SOFT, HARD, store=HASTY) as (served, _):
            assert time.monotonic() - began < 10
            assert (await call(served[0])).status == 200
            refused = await call(served[0], "key-h", max_tokens=1)
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            assert "the budget of the key 'h' cannot be known now" in refused.error["message"]
            await redis.start()
            await at_rest(served)
            assert (await call(served[0], "key-h", max_tokens=1)).status == 200
            assert changes(served[0]) == ["redis_away", "redis_back"]
    finally:
        redis.kill()


async def killed(redis: RedisServer) -> None:
    redis.kill()


async def stopped(redis: RedisServer) -> None:
    redis.signal(signal.SIGSTOP)


async def paused(redis: RedisServer) -> None:
    await redis.say("CLIENT", "PAUSE", 1500, "ALL")


async def a_replica(redis: RedisServer) -> None:
    await redis.say("REPLICAOF", "127.0.0.1", "1")


async def full(redis: RedisServer) -> None:
    await redis.say("CONFIG", "SET", "maxmemory", "1")


async def started(redis: RedisServer) -> None:
    await redis.start()


async def gone_on(redis: RedisServer) -> None:
    redis.signal(signal.SIGCONT)


async def nothing(redis: RedisServer) -> None:
    await redis.ready()


async def a_master(redis: RedisServer) -> None:
    await redis.say("REPLICAOF", "NO", "ONE")


async def roomy(redis: RedisServer) -> None:
    await redis.say("CONFIG", "SET", "maxmemory", "0")


Happening = Callable[[RedisServer], Awaitable[None]]


@pytest.mark.parametrize(
    ("happens", "ends"),
    [(killed, started), (stopped, gone_on), (paused, nothing), (a_replica, a_master), (full, roomy)],
    ids=["d2-killed", "d3-hangs", "d4-slow", "d5-read-only", "d6-full"],
)
async def test_an_outage_fails_no_call_and_loses_nothing(redis: RedisServer, happens: Happening, ends: Happening):
    async with replicas(redis.url, SOFT, store=HASTY) as (served, _), Load(served) as load:
        await load.more(40)
        await happens(redis)
        await away(served)
        without = len(load.seconds)
        await load.more(60)
        waited = sorted(load.seconds[without + len(load.served) * 4 :])
        await ends(redis)
        await at_rest_under(load)
        await load.more(40)
        tokens = await load.end()
        await at_rest(served)
        assert await spent(redis) == tokens * NANO_A_TOKEN
        assert await held(redis) == 0
        assert waited[len(waited) // 2] < HASTY["redis_timeout_s"], "nobody waits for Redis any more"
        for one in served:
            times = len(changes(one)) // 2
            assert 1 <= times <= 4
            assert changes(one) == ["redis_away", "redis_back"] * times, "a line for each change, and no other"


async def at_rest_under(load: Load) -> None:
    """Waits until every gateway has Redis back, calls going on."""
    for one in load.served:
        await eventually(lambda one=one: not one.gateway.limiter.shared.away, "never back")


async def test_d7_what_a_flush_took_is_put_back(redis: RedisServer):
    gate = Gate()

    async def sometimes(body: dict[str, object]) -> None:
        if body.get("user") == "slow":
            await gate(body)

    async with replicas(redis.url, SOFT, script=answering(sometimes)) as (served, _):
        for i in range(6):
            assert (await call(served[i % 2], max_tokens=100)).status == 200
        slow = [asyncio.create_task(call(one, max_tokens=100, user="slow")) for one in served]
        await eventually(lambda: gate.came == 2, "they never came")
        await redis.say("FLUSHALL")
        for one in served:
            assert (await call(one, max_tokens=100)).status == 200
        await eventually(lambda: not any(one.gateway.limiter.shared.restoring for one in served), "not put back")
        assert await spent(redis) == 800 * NANO_A_TOKEN
        assert await held(redis) > 0
        gate.open()
        await asyncio.gather(*slow)
        await at_rest(served)
        assert await spent(redis) == 1000 * NANO_A_TOKEN
        assert await held(redis) == 0


async def test_d7_what_is_settled_while_all_is_lost_is_not_lost(redis: RedisServer):
    """What was said before the loss may be answered after what was said then: both are in one batch."""
    async with replicas(redis.url, SOFT, store=PATIENT) as (served, _), Load(served, callers=8) as load:
        for _ in range(10):
            await load.more(40)
            await redis.say("FLUSHALL")
        await load.more(40)
        tokens = await load.end()
        await at_rest(served)
        assert await spent(redis) == tokens * NANO_A_TOKEN
        assert await held(redis) == 0


async def test_d7_a_call_that_is_refused_while_others_are_put_back_holds_nothing(redis: RedisServer):
    """Three of twenty at once find a place; the first reply says that all was lost, before the others are read."""
    gate = Gate()
    key = {**SOFT, "limits": {"concurrent": 3}}
    async with replicas([redis.url], key, script=answering(gate)) as (served, _):
        first = asyncio.create_task(call(served[0]))
        await eventually(lambda: gate.came == 1, "it never came")
        await redis.say("FLUSHALL")
        calls = [asyncio.create_task(call(served[0])) for _ in range(20)]
        await eventually(lambda: sum(task.done() for task in calls) >= 17, "not refused")
        gate.open()
        assert (await first).status == 200
        assert sorted([(await task).status for task in calls])[3:] == [429] * 17
        await at_rest(served)
        assert await redis.say("HGET", "arriero:{t:a}:key:a:concurrent", "h") == b"0"
        assert await held(redis) == 0


async def test_d8_functions_that_went_are_loaded_again(redis: RedisServer):
    async with replicas(redis.url, SOFT) as (served, _):
        assert (await call(served[0], max_tokens=10)).status == 200
        await at_rest(served)
        await redis.say("FUNCTION", "DELETE", "arriero2")
        assert (await call(served[1], max_tokens=10)).status == 200
        await redis.say("FUNCTION", "FLUSH")
        assert (await call(served[0], max_tokens=10)).status == 200
        await at_rest(served)
        assert await spent(redis) == 30 * NANO_A_TOKEN
        assert changes(served[0]) == []


async def test_d9_a_reply_that_is_lost_charges_nothing_twice(redis: RedisServer):
    async with proxy(redis.port) as way, replicas([way.url], SOFT, store=HASTY) as (served, _), Load(served) as load:
        await load.more(20)
        for _ in range(3):
            way.replies = False
            await eventually(lambda: way.kept_back, "nothing was kept back")
            await away(served)
            way.replies, way.kept_back = True, 0
            await at_rest_under(load)
            await load.more(20)
        tokens = await load.end()
        await at_rest(served)
        assert await spent(redis) == tokens * NANO_A_TOKEN
        assert await held(redis) == 0


async def test_d11_many_calls_at_once_share_one_connection(redis: RedisServer):
    async with replicas([redis.url], SOFT) as (served, _):
        found = await asyncio.gather(*(call(served[0], max_tokens=1) for _ in range(200)))
        assert {answer.status for answer in found} == {200}
        clients = await redis.say("CLIENT", "LIST")
        assert clients.count(b" addr=") == 2, "the gateway's and ours"
        assert changes(served[0]) == []


async def test_d13_who_is_cut_off_spends_no_more_than_its_lease(redis: RedisServer):
    """100,000 tokens are left of the hard budget when one of two replicas loses its way to Redis."""
    async with proxy(redis.port) as way, replicas([redis.url, way.url], HARD, store=HASTY) as (served, up):
        for one in served:
            assert (await call(one, "key-h", max_tokens=100)).status == 200
        await at_rest(served)
        before = len(up.requests)
        way.cut()
        found = await asyncio.gather(*(call(served[1], "key-h", max_tokens=500) for _ in range(40)))
        assert {answer.status for answer in found} == {200, 503}
        alone = (len(up.requests) - before) * 500
        assert 0 < alone <= 100_000 / 20
        rest = [(await call(served[0], "key-h", max_tokens=900)).status for _ in range(120)]
        assert rest.count(200) == (100_000 - 200) // 900
        way.open = True
        await at_rest(served)
        assert await spent(redis, "h") <= (100_000 + 5_000) * NANO_A_TOKEN
