"""Redis as it runs in earnest: behind Sentinels, in a cluster, with TLS and a user of few rights."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import trustme

from bench.process import free_port
from tests.harness import eventually
from tests.limits.replicas import HASTY, NANO_A_TOKEN, SOFT, Load, at_rest, changes, replicas, spent
from tests.limits.stage import Gate, answering, call
from tests.redis_server import RedisServer, redis_server


@contextlib.asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[list[RedisServer]]:
    """Three masters with all slots between them."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for i in range(3):
            bus = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
            nodes.append(await stack.enter_async_context(redis_server(folder / str(i), *bus)))
        for i, node in enumerate(nodes):
            first, last = 16384 * i // 3, 16384 * (i + 1) // 3 - 1
            await node.say("CLUSTER", "ADDSLOTSRANGE", first, last)
            for other in nodes[:i]:
                await node.say("CLUSTER", "MEET", "127.0.0.1", other.port, other.more[-1])
        for node in nodes:
            await node.until(b"cluster_state:ok", "CLUSTER", "INFO")
        yield nodes


async def test_d12_in_a_cluster_every_command_keeps_to_one_slot(tmp_path: Path):
    gate = Gate()
    keys = [{**SOFT, "team": "t", "limits": {"concurrent": 3}}, {"name": "b", "key": "key-b"}]
    async with cluster(tmp_path) as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        teams = [{"name": "t", "limits": {"rpm": 1000}}]
        async with replicas(url, *keys, script=answering(gate), teams=teams, limits={"concurrent": 5}) as (served, up):
            mine = [asyncio.create_task(call(served[i % 2])) for i in range(20)]
            await eventually(lambda: sum(task.done() for task in mine) == 17, "not refused")
            others = [asyncio.create_task(call(served[i % 2], "key-b")) for i in range(20)]
            await eventually(lambda: sum(task.done() for task in others) == 18, "not refused")
            gate.open()
            assert sorted([(await task).status for task in mine]) == [200] * 3 + [429] * 17
            assert sorted([(await task).status for task in others]) == [200] * 2 + [429] * 18
            assert len(up.requests) == 5
            await at_rest(served)
            found = await asyncio.gather(*(call(served[i % 2], max_tokens=10) for i in range(3)))
            assert {answer.status for answer in found} == {200}
            assert changes(served[0]) == changes(served[1]) == []


async def test_sentinels_say_who_is_the_master_now(tmp_path: Path):
    async with (
        redis_server(tmp_path / "a") as first,
        redis_server(tmp_path / "b", "--replicaof", f"127.0.0.1 {first.port}") as second,
    ):
        watch = f"sentinel monitor m 127.0.0.1 {first.port} 1\nsentinel down-after-milliseconds m 500\n"
        quick = "sentinel failover-timeout m 2000\n"
        async with sentinel(tmp_path / "s1", watch + quick) as one:
            url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{one.port}/m"
            async with replicas(url, SOFT, store=HASTY) as (served, _), Load(served) as load:
                await load.more(30)
                await first.until(b"state=online", "INFO", "replication")
                await first.say("WAIT", 1, 5000)
                first.kill()
                await second.until(b"role:master", "INFO", "replication")
                for one_served in served:
                    await eventually(
                        lambda one_served=one_served: changes(one_served)[-1:] == ["redis_back"], "never back"
                    )
                await load.more(30)
                tokens = await load.end()
                await at_rest(served)
                lost = tokens * NANO_A_TOKEN - await spent(second)
                assert abs(lost) <= 4 * load.tokens * NANO_A_TOKEN, "replication is not awaited: the last may be lost"


@contextlib.asynccontextmanager
async def sentinel(folder: Path, config: str) -> AsyncIterator[RedisServer]:
    """redis-server as a Sentinel."""
    found = RedisServer(folder)
    file = written(folder / "sentinel.conf", f"port {found.port}\nbind 127.0.0.1\n{config}")
    found.command = ["redis-server", str(file), "--sentinel"]
    await found.start()
    try:
        yield found
    finally:
        found.kill()


def written(file: Path, text: str) -> Path:
    file.parent.mkdir()
    file.write_text(text)
    return file


async def test_tls_and_a_user_with_the_rights_that_the_docs_name(tmp_path: Path):
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = free_port()
    files = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem"]
    where = ["--tls-port", str(tls), "--tls-auth-clients", "no"]
    async with redis_server(tmp_path, *where, *files) as redis:
        page = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
        said = page.partition("An ACL user needs `")[2].partition("`")[0].split()
        assert await redis.say("ACL", "SETUSER", "arriero", "on", ">secret", *said) == b"+OK"
        url = f"rediss://arriero:secret@127.0.0.1:{tls}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
        async with replicas(url, SOFT) as (served, _):
            assert (await call(served[0], max_tokens=10)).status == 200
            assert (await call(served[1], max_tokens=10)).status == 200
            await at_rest(served)
            assert await spent(redis) == 20 * NANO_A_TOKEN
            assert changes(served[0]) == []
