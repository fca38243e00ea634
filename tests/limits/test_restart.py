"""What was spent before a gateway began: read from the ledger, so that a restart is no new budget."""

from pathlib import Path
from typing import Any

from tests.harness import serving, upstream
from tests.limits.replicas import NANO_A_TOKEN, SOFT, at_rest, spent
from tests.limits.stage import answering, call, limited
from tests.redis_server import redis_server

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
