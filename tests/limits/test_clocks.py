"""Row E8: clocks of replicas that differ by minutes, or jump by an hour, change no limit and no pause."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Served, Upstream, eventually, serving, upstream
from tests.limits.replicas import PATIENT, SOFT, at_rest
from tests.limits.stage import Gate, answering, call, limited
from tests.limits.test_gossip import facts, refusing
from tests.limits.test_shared import burst
from tests.redis_server import RedisServer, redis_server


class Wall:
    """The time of day, set wrong by so many seconds."""

    def __init__(self, wrong_s: float = 0.0) -> None:
        self.wrong_s = wrong_s

    def __call__(self) -> float:
        return time.time() + self.wrong_s


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as found:
        yield found


@asynccontextmanager
async def drifting(
    redis: RedisServer, *walls: Callable[[], float], script: Any = None, **key: Any
) -> AsyncIterator[tuple[list[Served], Upstream]]:
    """A gateway for each clock."""
    async with upstream(script or answering()) as up, AsyncExitStack() as stack:
        document = {**limited(up.url, key or SOFT), "store": {"redis": redis.url, **PATIENT}}
        yield [await stack.enter_async_context(serving(document, wall=wall)) for wall in walls], up


async def test_replicas_ten_minutes_apart_share_a_hard_budget(redis: RedisServer):
    gate = Gate()
    budget = {"usd": "0.001", "per": "total", "hard": True}
    async with drifting(redis, Wall(-300), Wall(300), script=answering(gate), budget=budget) as (served, up):
        assert await burst(served, gate, 100, 90, max_tokens=100) == [200] * 10 + [429] * 90
        assert len(up.requests) == 10


async def test_replicas_ten_minutes_apart_share_a_rate(redis: RedisServer):
    async with drifting(redis, Wall(-300), Wall(300), limits={"rpm": 4}) as (served, _):
        statuses = [(await call(served[i % 2])).status for i in range(6)]
        assert statuses == [200] * 4 + [429] * 2
        waits = [(await call(one)).headers["retry-after"] for one in served]
        assert all(1 <= int(wait) <= 15 for wait in waits)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
async def test_a_clock_that_jumps_ends_no_call_and_moves_no_limit(redis: RedisServer, jump_s: float):
    wall, gate = Wall(), Gate()
    key = {"limits": {"rpm": 3, "concurrent": 3}, "budget": {"usd": 1, "per": "total", "hard": True}}
    async with drifting(redis, wall, script=answering(gate), **key) as (served, _):
        under_way = [asyncio.create_task(call(served[0], max_tokens=10)) for _ in range(2)]
        await eventually(lambda: gate.came == 2, "they never came")
        wall.wrong_s = jump_s
        gate.open()
        assert [(await task).status for task in under_way] == [200, 200]
        assert (await call(served[0], max_tokens=10)).status == 200
        refused = await call(served[0], max_tokens=10)
        assert (refused.status, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        await at_rest(served)
        assert len(served[0].gateway.limiter.shared) == 0


async def test_a_pause_is_as_long_for_a_replica_whose_clock_is_wrong(redis: RedisServer):
    async with drifting(redis, Wall(300), Wall(-300), script=refusing(429, retry_after="40")) as (served, _):
        one, other = served
        assert (await call(one)).status == 429
        await eventually(lambda: facts(other).cooling_until, "never heard")
        left = [facts(each).cooling_until - each.gateway.fleet.clock() for each in served]
        assert 35 < left[0] < 45
        assert abs(left[0] - left[1]) < 2


async def test_a_rate_from_a_clock_that_was_set_back_holds_a_minute_at_most(redis: RedisServer):
    """Redis itself was two hours ahead when it counted."""
    async with drifting(redis, Wall(), limits={"rpm": 4}) as (served, _):
        assert (await call(served[0])).status == 200
        await at_rest(served)
        ahead_us = int((time.time() + 7200) * 1e6)
        await redis.say("SET", "arriero:{t:a}:key:a:rpm", ahead_us)
        refused = await call(served[0])
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) <= 60
