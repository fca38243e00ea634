"""What one replica learns of a cloud the others know within a second, whoever asks whom."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.types import Room
from tests.harness import Connection as Peer
from tests.harness import Served, eventually, json_answer
from tests.limits.replicas import HASTY, SOFT, away, replicas
from tests.limits.stage import answering, call
from tests.redis_server import RedisServer, redis_server


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as found:
        yield found


def facts(served: Served):  # type: ignore[no-untyped-def]
    return served.gateway.fleet.routes["r"].lanes["up"].facts


def refusing(status: int, **headers: str) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        while await peer.request():
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            await peer.send(json_answer({"error": {"message": "no"}}, status, named))

    return script


async def test_a_pause_that_one_was_asked_for_is_kept_by_the_other(redis: RedisServer):
    async with replicas(redis.url, SOFT, script=refusing(429, retry_after="40")) as (served, _):
        one, other = served
        assert (await call(one)).status == 429
        await eventually(lambda: facts(other).cooling_until, "never heard")
        left = [facts(s).cooling_until - s.gateway.fleet.clock() for s in served]
        assert abs(left[0] - left[1]) < 1
        assert facts(other).cooling_why == facts(one).cooling_why


async def test_of_two_pauses_the_later_end_wins(redis: RedisServer):
    async with replicas(redis.url, SOFT) as (served, _):
        one, other = served
        now = one.gateway.fleet.clock()
        facts(one).cooling_until, facts(one).cooling_why = now + 100, "long"
        facts(other).cooling_until, facts(other).cooling_why = now + 50, "short"
        await eventually(lambda: facts(other).cooling_why == "long", "never heard")
        await exchanged(served)
        assert facts(one).cooling_why == "long"
        assert abs(facts(one).cooling_until - now - 100) < 0.5


async def exchanged(served: list[Served]) -> None:
    """Waits for a round of news of every gateway: what each tells now, the others know."""
    for one in served:
        assert one.gateway.gossip is not None
        await one.gateway.gossip.exchange()
    for one in served:
        assert one.gateway.gossip is not None
        await one.gateway.gossip.exchange()


async def test_a_circuit_that_one_found_broken_is_broken_for_the_other_until_somebody_gets_through(redis: RedisServer):
    async with replicas(redis.url, SOFT, script=refusing(500)) as (served, up):
        one, other = served
        for _ in range(5):
            await call(one)
        await exchanged(served)
        assert facts(other).failures == 5
        up.script = answering()
        assert (await call(other)).status == 200
        await exchanged(served)
        assert facts(one).failures == facts(other).failures == 0


async def test_one_failure_is_no_news(redis: RedisServer):
    async with replicas(redis.url, SOFT, script=refusing(500)) as (served, _):
        await call(served[0])
        await exchanged(served)
        assert facts(served[1]).failures == 0


async def test_the_room_that_one_was_told_of_the_other_knows(redis: RedisServer):
    async with replicas(redis.url, SOFT) as (served, _):
        one, other = served
        now = one.gateway.fleet.clock()
        facts(one).see_room(Room(0.25, now + 30, 0.5, now + 60))
        await exchanged(served)
        found = facts(other).room
        assert (found.requests_left, found.tokens_left) == (0.25, 0.5)
        assert abs(found.requests_reset - now - 30) < 0.5


async def test_without_redis_everybody_knows_only_what_it_saw(redis: RedisServer):
    async with replicas(redis.url, SOFT, store=HASTY) as (served, _):
        redis.kill()
        await asyncio.gather(*(call(one) for one in served for _ in range(4)))
        await away(served)
        assert facts(served[0]).failures == 0
