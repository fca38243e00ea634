"""A Redis that may forget limits to make room: refused at the start, told of when it is found out later."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from bench.process import free_port
from gateway.errors import ConfigError
from tests import process
from tests.harness import Served, eventually
from tests.limits.replicas import HASTY, NANO_A_TOKEN, SOFT, at_rest, changes, replicas, spent
from tests.limits.stage import call, limited
from tests.limits.test_topologies import cluster
from tests.redis_server import RedisServer, redis_server

FORGETS = ("--maxmemory", "64mb", "--maxmemory-policy")
REFUSED = (
    "store.redis: may forget limits: its maxmemory-policy is {}; set its maxmemory-policy to noeviction, or give "
    "limits a Redis of their own"
)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as found:
        yield found


def metric(served: Served, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", served.metrics(), re.M)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_may_evict_is_refused_at_the_start(tmp_path: Path, policy: str):
    async with redis_server(tmp_path, *FORGETS, policy) as redis:
        with pytest.raises(ConfigError) as error:
            async with replicas([redis.url], SOFT):
                pass
    assert str(error.value) == REFUSED.format(policy)


async def test_the_command_says_so_and_ends(tmp_path: Path):
    async with redis_server(tmp_path / "redis", *FORGETS, "volatile-lru") as redis:
        document = {**limited("http://127.0.0.1:9/v1", SOFT), "store": {"redis": redis.url}}
        (tmp_path / "arriero.yaml").write_text(yaml.safe_dump(document))
        done = process.run("serve", "--port", "0", "--admin-port", "0", folder=tmp_path)
    assert done.code == 2
    assert REFUSED.format("volatile-lru") in done.err


async def test_one_node_of_a_cluster_that_may_evict_is_enough(tmp_path: Path):
    async with cluster(tmp_path) as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        async with replicas([url], SOFT) as (served, _):
            assert (await call(served[0])).status == 200
        await nodes[2].say("CONFIG", "SET", "maxmemory-policy", "allkeys-lfu")
        await nodes[2].say("CONFIG", "SET", "maxmemory", "64mb")
        with pytest.raises(ConfigError, match="allkeys-lfu"):
            async with replicas([url], SOFT):
                pass


async def test_without_a_bound_of_memory_nothing_is_ever_evicted(tmp_path: Path):
    async with (
        redis_server(tmp_path, "--maxmemory-policy", "allkeys-lru") as redis,
        replicas([redis.url], SOFT) as (
            served,
            _,
        ),
    ):
        assert (await call(served[0])).status == 200
        assert metric(served[0], "arriero_store_may_evict") == 0


async def test_one_that_is_found_out_later_is_told_of_and_calls_go_on(tmp_path: Path):
    redis = RedisServer(tmp_path, *FORGETS, "allkeys-lru", port=free_port())
    try:
        async with replicas([redis.url], SOFT, store=HASTY) as (served, _):
            assert (await call(served[0])).status == 200
            await redis.start()
            await eventually(lambda: "redis_evicts" in changes(served[0]), "never told: {}", lambda: changes(served[0]))
            assert changes(served[0]) == ["redis_away", "redis_back", "redis_evicts"]
            told = next(record for record in served[0].log() if record["event"] == "redis_evicts")
            assert (told["policy"], told["evicted"]) == ("allkeys-lru", 0)
            assert "noeviction" in told["remedy"]
            assert metric(served[0], "arriero_store_may_evict") == 1
            assert (await call(served[0])).status == 200
    finally:
        redis.kill()


async def test_what_was_evicted_is_counted_and_the_end_of_it_is_told(redis: RedisServer):
    async with replicas([redis.url], SOFT) as (served, _):
        shared = served[0].gateway.limiter.shared
        assert (await call(served[0], max_tokens=10)).status == 200
        await at_rest(served)
        await redis.say("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        await redis.say("CONFIG", "SET", "maxmemory", "1")
        await shared.eviction.tell()
        assert metric(served[0], "arriero_store_evicted_keys_total") > 0
        await redis.say("CONFIG", "SET", "maxmemory", "0")
        for _ in range(2):
            await shared.eviction.tell()
        assert changes(served[0]) == ["redis_evicts", "redis_keeps"]
        assert metric(served[0], "arriero_store_may_evict") == 0
        assert (await call(served[0], max_tokens=10)).status == 200
        await at_rest(served)
        assert await spent(redis) == 20 * NANO_A_TOKEN, "what was evicted is put back by who knows it"


async def test_a_user_that_may_not_ask_is_told_of_once(redis: RedisServer):
    rights = ["~arriero:*", "+@all", "-info"]
    assert await redis.say("ACL", "SETUSER", "arriero", "on", ">secret", *rights) == b"+OK"
    async with replicas([f"redis://arriero:secret@127.0.0.1:{redis.port}"], SOFT) as (served, _):
        await served[0].gateway.limiter.shared.eviction.tell()
        assert changes(served[0]) == ["redis_policy_unknown"]
        assert (await call(served[0])).status == 200
