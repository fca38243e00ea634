"""Everything is killed under load, again and again: no call is lost, none is counted twice, every cost is the cloud's.

ARRIERO_SOAK_CALLS says how many calls go by with each database: `make soak` takes a million, CI 50,000."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.ledger.database import connect
from gateway.ledger.place import place
from gateway.prices import usd
from tests import postgres
from tests.harness import eventually
from tests.redis_server import RedisServer
from tests.soak import clouds, fleet, judge
from tests.soak.load import AT_ONCE, BROKEN, KEYS, Load

CALLS = int(os.environ.get("ARRIERO_SOAK_CALLS", "20000"))
EACH = max(5, CALLS // 20_000)
"""How often each gateway and each server is killed."""
A_CALL_NANO = 3_300
"""About what a call costs."""
TIGHT_NANO = CALLS // len(KEYS) // 2 * A_CALL_NANO
"""The hard budget of the key that is to use it up: about half of its calls."""
LATE = 200
"""Calls that had ended and were not in the journal yet when a gateway was killed."""


@pytest.fixture
def own_server() -> Iterator[postgres.Postgres]:
    """A server that may be killed: nobody else's."""
    with postgres.serving() as server:
        yield server


class Story:
    """What happened, and what is left of it."""

    def __init__(self, folder: Path, ledger: str) -> None:
        self.folder, self.ledger = folder, ledger
        self.gateways = fleet.gateways(folder)
        self.load = Load([gateway.port for gateway in self.gateways], CALLS)
        self.redis = RedisServer(folder / "redis")
        self.kills: Counter[str] = Counter()
        self.record: Any = None
        self.counted: dict[str, int] = {}

    async def run(self, server: postgres.Postgres | None) -> None:
        redis = self.redis
        victims: list[fleet.Victim] = [
            *self.gateways,
            fleet.Redis(redis),
            *([fleet.Database(server)] if server else []),
        ]
        async with clouds.running(self.folder) as (control, facts):
            self.record = clouds.Record(control, CALLS)
            self._write(facts, redis.url)
            await redis.start()
            try:
                await self._serve(victims)
            finally:
                for gateway in self.gateways:
                    await gateway.stop()
                redis.kill()

    def _write(self, facts: dict[str, Any], redis: str) -> None:
        said = {"ledger": self.ledger, "redis": redis, "ample": fleet.AMPLE, "tight_usd": usd(TIGHT_NANO)}
        (self.folder / "arriero.yaml").write_text(fleet.CONFIG.format(**facts, **said))

    async def _serve(self, victims: list[fleet.Victim]) -> None:
        await asyncio.gather(*(gateway.start() for gateway in self.gateways))
        following = asyncio.create_task(self.record.follow())
        reaping = asyncio.create_task(fleet.reap(victims, self.load, EACH, random.Random(7)))
        await self.load.run()
        self.kills = await reaping
        for gateway in self.gateways:
            await gateway.stop()
        following.cancel()
        await self.record.read()
        self.counted = {key: await in_redis(self.redis, key) for key in dict.fromkeys(KEYS)}
        await self.gateways[0].start()  # takes in what the last ones left
        journal = self.folder / "arriero.journal"
        await eventually(lambda: len(list(journal.glob("*.calls"))) == 1, "not taken in")


async def in_redis(redis: RedisServer, key: str) -> int:
    """Nano-dollars that Redis has counted for a key."""
    name = f"arriero:{{t:{key}}}:key:{key}:total:"
    found = [await redis.say("HGET", name, field) for field in "bmeh"]
    return sum(0 if value == b"$-1" else int(value) for value in found)


@pytest.mark.soak
@pytest.mark.timeout(300 + CALLS // 50)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_whatever_is_killed_nothing_is_lost_or_doubled(kind: str, tmp_path: Path, request: pytest.FixtureRequest):
    server: postgres.Postgres | None = request.getfixturevalue("own_server") if kind == "postgresql" else None
    story = Story(tmp_path, server.database() if server else "sqlite:///arriero.db")
    began = time.monotonic()
    uvloop.run(story.run(server))
    took_s = time.monotonic() - began
    database = connect(place(story.ledger, tmp_path))
    try:
        found, unequal = judge.books(database, story.load, story.record), judge.unequal(database)
    finally:
        database.close()
    print(f"{kind}: {CALLS} calls in {took_s:.0f} s, killed {dict(story.kills)}")
    print(f"  {found}; { ({key: dict(counts) for key, counts in story.load.statuses.items()}) }")
    print(f"  counted in Redis {story.counted}, in the ledger {dict(found.by_key)}; tight may have {TIGHT_NANO}")
    assert set(story.kills.values()) == {EACH}
    assert not unequal
    assert (found.lost, found.doubled, found.wrong) == (0, 0, 0)
    assert found.nano == found.clouds_nano
    killed = story.kills["a"] + story.kills["b"]
    assert found.estimated <= killed * (AT_ONCE + LATE), "more is estimated than was under way"
    assert sum(counts[BROKEN] for counts in story.load.statuses.values()) <= killed * AT_ONCE
    assert not judge.refused(story.load, "soft")
    assert not judge.refused(story.load, "hard", 503)
    assert not judge.refused(story.load, "tight", 429, 503)
    assert found.by_key["tight"] <= TIGHT_NANO * 11 // 10, "more than the leases of two gateways"
    for words in (words for gateway in story.gateways for words in gateway.changes()):
        assert words == [fleet.WORDS[i % 2] for i in range(len(words))], "a line for each change, and no other"
