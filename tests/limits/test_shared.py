"""Two gateways on one real Redis: one budget, one limit, whoever is asked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Served
from tests.limits.replicas import at_rest, replicas
from tests.limits.stage import Gate, answering, call
from tests.redis_server import RedisServer, redis_server


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as found:
        yield found


async def burst(served: list[Served], gate: Gate, count: int, refused: int, **fields: Any) -> list[int]:
    """Calls at once, in turn at each gateway; those that pass are answered when `refused` others were refused."""
    calls = [asyncio.create_task(call(served[i % len(served)], **fields)) for i in range(count)]
    statuses = []
    for ended, done in enumerate(asyncio.as_completed(calls), 1):
        statuses.append((await done).status)
        if ended == refused:
            gate.open()
    return sorted(statuses)


@pytest.mark.parametrize("run", range(3))
async def test_a_hard_budget_for_ten_admits_ten_of_a_hundred_at_two_gateways(redis: RedisServer, run: int):
    gate = Gate()
    budget = {"usd": "0.001", "per": "day", "hard": True}
    async with replicas(redis.url, {"budget": budget}, script=answering(gate)) as (served, up):
        assert await burst(served, gate, 100, 90, max_tokens=100) == [200] * 10 + [429] * 90
        assert len(up.requests) == 10
        await at_rest(served)
        assert (await call(served[0], max_tokens=1)).status == 429


async def test_a_soft_budget_is_passed_by_one_call_a_replica_at_most(redis: RedisServer):
    gate = Gate()
    budget = {"usd": "0.00095", "per": "day"}
    async with replicas(redis.url, {"budget": budget}, script=answering(gate)) as (served, up):
        await burst(served, gate, 60, 40, max_tokens=100)
        assert 10 <= len(up.requests) <= 12


async def test_requests_a_minute_are_counted_for_all_gateways(redis: RedisServer):
    async with replicas(redis.url, {"limits": {"rpm": 4, "tpm": 10_000}}) as (served, _):
        left = []
        for i in range(4):
            found = await call(served[i % 2], max_tokens=10)
            assert found.status == 200
            left.append(int(found.headers["x-ratelimit-remaining-requests"]))
        assert left == [3, 2, 1, 0]
        refused = await call(served[0], max_tokens=10)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "15"


async def test_calls_at_once_are_counted_for_all_gateways(redis: RedisServer):
    gate = Gate()
    async with replicas(redis.url, {"limits": {"concurrent": 3}}, script=answering(gate)) as (served, _):
        assert await burst(served, gate, 20, 17) == [200] * 3 + [429] * 17
        await at_rest(served)
        assert (await call(served[0])).status == 200


async def test_what_was_reserved_too_much_is_free_again(redis: RedisServer):
    budget = {"usd": "0.001", "per": "month", "hard": True}
    async with replicas(redis.url, {"budget": budget}, script=answering(output=10)) as (served, _):
        for i in range(50):
            assert (await call(served[i % 2], max_tokens=500)).status == 200
            await at_rest(served)  # a call is settled in Redis after its answer
        refused = await call(served[0], max_tokens=501)
        assert refused.status == 429
        assert "0.0005 USD are left" in refused.error["message"]


async def test_a_team_and_a_route_and_a_key_are_counted_in_one_call(redis: RedisServer):
    keys = [{"team": "t", "limits": {"rpm": 100}}, {"name": "b", "key": "key-b"}]
    async with replicas(redis.url, *keys, teams=[{"name": "t", "limits": {"rpm": 100}}], limits={"rpm": 2}) as (
        served,
        _,
    ):
        await redis.say("CONFIG", "RESETSTAT")
        assert (await call(served[0])).status == 200
        assert (await call(served[1], "key-b")).status == 200
        await at_rest(served)
        stats = await redis.say("INFO", "commandstats")
        assert b"cmdstat_fcall:calls=4," in stats, "a call to reserve and one to settle each"
        assert (await call(served[0], "key-b")).status == 429
