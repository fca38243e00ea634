"""What was spent before a gateway began: read from the ledger, so that a restart is no new budget."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.place import Storage
from tests import postgres
from tests.harness import eventually, serving, upstream
from tests.limits.replicas import NANO_A_TOKEN, SOFT, at_rest, spent
from tests.limits.stage import answering, call, limited
from tests.redis_server import redis_server


@pytest.fixture
def server() -> Iterator[postgres.Postgres]:
    with postgres.serving() as found:
        yield found


KEYS = [
    {"team": "t", "budget": {"usd": "0.0005", "per": "month", "hard": True}},
    {"name": "b", "key": "key-b", "team": "t"},
]


def config(url: str, folder: Path, **more: Any) -> Any:
    teams = [{"name": "t", "budget": {"usd": "0.0009", "per": "day", "hard": True}}]
    return {**limited(url, *KEYS, teams=teams), "store": {"ledger": f"sqlite:///{folder}/ledger.db"}, **more}


async def test_a_restart_is_no_new_budget(tmp_path: Path):
    async with upstream(answering()) as up:
        async with serving(config(up.url, tmp_path)) as served:
            assert (await call(served, max_tokens=400)).status == 200
        async with serving(config(up.url, tmp_path)) as served:
            assert (await call(served, max_tokens=101)).status == 429
            assert (await call(served, max_tokens=100)).status == 200
        async with serving(config(up.url, tmp_path)) as served:
            assert (await call(served, max_tokens=1)).status == 429
            assert (await call(served, "key-b", max_tokens=401)).status == 429, "the team has 400 left"
            assert (await call(served, "key-b", max_tokens=400)).status == 200


async def test_when_redis_and_every_gateway_began_anew_the_ledger_knows(tmp_path: Path):
    async with upstream(answering()) as up, redis_server(tmp_path / "redis") as redis:
        found = limited(up.url, SOFT)
        found["store"] = {"ledger": f"sqlite:///{tmp_path}/ledger.db", "redis": redis.url, "redis_timeout_s": 10}
        async with serving(found) as served:
            assert (await call(served, max_tokens=70)).status == 200
            await at_rest([served])
        await redis.say("FLUSHALL")
        async with serving(found) as served:
            assert (await call(served, max_tokens=5)).status == 200
            await at_rest([served])
            assert await spent(redis) == 75 * NANO_A_TOKEN


async def test_a_ledger_that_was_away_is_heard_when_it_is_back(tmp_path: Path, server: postgres.Postgres):
    """Redis and every gateway began anew while the database was away: what it knows is added in the end."""
    async with upstream(answering()) as up, redis_server(tmp_path / "redis") as redis:
        found = limited(up.url, SOFT)
        found["store"] = {"ledger": server.database(), "redis": redis.url, "redis_timeout_s": 10}
        storage = Storage(tmp_path)
        async with serving(found, storage=storage) as served:
            assert (await call(served, max_tokens=70)).status == 200
            await at_rest([served])
        await asyncio.to_thread(server.kill)
        await redis.say("FLUSHALL")
        async with serving(found, storage=storage) as served:
            assert (await call(served, max_tokens=5)).status == 200
            await at_rest([served])
            assert await spent(redis) == 5 * NANO_A_TOKEN
            await asyncio.to_thread(server.start)
            assert served.gateway.ledger is not None
            await eventually(lambda: not served.gateway.ledger.tally.database_away, "the database is never back")
            for _ in range(2):
                assert (await call(served, max_tokens=1)).status == 200
                await at_rest([served])
            assert await spent(redis) == 77 * NANO_A_TOKEN
