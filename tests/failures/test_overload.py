"""Failure catalogue E10 to E12: no files left, a loop that is stuck, no memory left."""

import asyncio
import contextlib
import http.client
import json
import os
import resource
import stat
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.serve import FILES_OF_OUR_OWN
from gateway.vitals.memory import Memory
from tests import process
from tests.failures.stage import DONE, ROLE
from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Answer,
    Caller,
    Connection,
    Served,
    answer_bytes,
    ask,
    caller,
    chat,
    chunk,
    config,
    delta,
    eventually,
    request,
    route,
    serving,
    upstream,
)


async def answering(connection: Connection) -> None:
    while await connection.request():
        await connection.send(answer_bytes())


async def get(port: int, path: str) -> Answer:
    client = Caller(*await asyncio.open_connection("127.0.0.1", port))
    try:
        await client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE_S):
            return await client.answer()
    finally:
        client.close()


# ---------------------------------------------------------------------- E10: no files left
FILES = 256


@contextlib.asynccontextmanager
async def with_few_files(folder: Path, cloud_url: str) -> AsyncIterator[process.Running]:
    few = folder / "few-files"
    few.write_text(f'#!/bin/sh\nulimit -n {FILES}\nexec {process.ARRIERO} "$@"\n')
    few.chmod(few.stat().st_mode | stat.S_IXUSR)
    (folder / "config.yaml").write_text(json.dumps(config({"r": route("a")}, a=cloud_url)))
    with process.serving("--config", "config.yaml", folder=folder, arriero=few) as running:
        yield running
    assert "Traceback" not in "\n".join(running.lines)


async def test_e10_with_its_files_used_up_it_sheds_stays_alive_and_recovers(tmp_path: Path) -> None:
    room = (FILES - FILES_OF_OUR_OWN) // 2
    async with upstream(answering) as cloud, with_few_files(tmp_path, cloud.url) as running:
        port, admin = (int(url.rpartition(":")[2]) for url in (running.url, running.admin_url))
        clients = [Caller(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2 * FILES)]
        await asyncio.gather(*(client.send(request(chat())) for client in clients[:room]))
        answers = await asyncio.gather(*(client.answer() for client in clients[:room]))
        assert [answer.body for answer in answers if answer.status != 200] == []

        beyond = await asyncio.gather(*(client.closed() for client in clients[room:]))
        assert beyond == [b""] * (2 * FILES - room)
        late = Caller(*await asyncio.open_connection("127.0.0.1", port))
        await late.send(request(chat()))
        answer = await late.answer()
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert "no room" in answer.error["message"]
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        assert await late.closed() == b""

        for _ in range(20):  # whoever is within the bound is served, and probes find it alive
            assert (await get(admin, "/healthz")).status == 200
        await clients[0].send(request(chat()))
        assert (await clients[0].answer()).status == 200

        for client in clients:
            client.close()
        deadline = time.monotonic() + PATIENCE_S
        status = 0
        while status != 200:
            assert time.monotonic() < deadline
            client = Caller(*await asyncio.open_connection("127.0.0.1", port))
            await client.send(request(chat()))
            status = (await client.answer()).status
            client.close()


@contextlib.contextmanager
def no_further_file() -> Iterator[None]:
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest number that is free
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (least, most))


async def test_e10_no_file_for_a_connection_upstream_is_no_clouds_fault() -> None:
    async with contextlib.AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upstream(answering))
        served = await stack.enter_async_context(serving(config({"r": route("a")}, a=cloud.url)))
        client = await stack.enter_async_context(caller(served))
        with no_further_file():
            await client.send(request(chat()))
            answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert "may open no further file" in answer.error["message"]
        assert answer.headers["retry-after"] == "1"
        facts = served.gateway.fleet.routes["r"].lanes["a"].facts
        assert (facts.failures, facts.cooling_until <= served.gateway.fleet.clock()) == (0, True)
        await client.send(request(chat()))
        assert (await client.answer()).status == 200


# ---------------------------------------------------------------------- E11: the event loop is stuck
def lags(served: Served) -> dict[str, float]:
    """How many beats were at most so late, and `sum`."""
    rows = [line.rpartition(" ") for line in served.metrics().splitlines() if line.startswith("arriero_event_loop_lag")]
    found = {name.partition('le="')[2].partition('"')[0] or name.rpartition("_")[2]: float(v) for name, _, v in rows}
    return {"late": found["count"] - found["0.25"], "very late": found["count"] - found["1.0"], **found}


async def test_e11_half_a_second_of_work_shows_as_lag_and_costs_no_readiness() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        await eventually(lambda: lags(served)["count"] > 2, "it does not beat")
        before = lags(served)
        time.sleep(0.5)  # noqa: ASYNC251  (the fault)
        await eventually(
            lambda: lags(served)["late"] > before["late"], "the lag was not seen: {}", lambda: lags(served)
        )
        assert lags(served)["sum"] - before["sum"] >= 0.3
        assert (await get(served.port, "/readyz")).status == 200
        assert (await ask(served)).status == 200


async def test_e11_stuck_for_more_than_a_second_it_is_not_ready_and_says_where_it_stands() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        found: list[int] = []

        def probe() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_S)
            connection.request("GET", "/readyz")
            found.append(connection.getresponse().status)
            connection.close()

        thread = threading.Thread(target=probe)
        await eventually(lambda: lags(served)["count"] > 0, "it does not beat")
        thread.start()
        began = time.time()
        time.sleep(1.6)  # noqa: ASYNC251  (the fault)
        ended = time.time()
        await asyncio.to_thread(thread.join, PATIENCE_S)
        assert found == [503]

        (stuck,) = (record for record in served.log() if record["event"] == "loop_stuck")
        assert began + 0.9 < stuck["ts"] < ended  # said while it was so
        assert stuck["seconds"] >= 1.0
        assert "test_overload.py:" in stuck["at"]
        assert (await get(served.port, "/healthz")).status == 200
        async with asyncio.timeout(PATIENCE_S):
            while (await get(served.port, "/readyz")).status != 200:
                await beats(served, 1)


async def test_e11_late_again_and_again_it_refuses_calls_until_it_keeps_up() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        vitals = served.gateway.vitals
        for _ in range(2):
            vitals.look(1.5)
        assert (await ask(served)).status == 200
        vitals.pulse.stop()  # no beat of its own between ours
        for _ in range(3):
            vitals.look(1.5)
        answer = await ask(served)
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
        assert "cannot keep up" in answer.error["message"]
        assert "arriero_shedding 1.0" in served.metrics()
        assert (await get(served.admin_port, "/healthz")).status == 200
        vitals.look(0.2)
        assert (await ask(served)).status == 200
        assert [record["why"] for record in served.log() if record["event"] == "shedding"] == ["cannot keep up", "over"]


# ---------------------------------------------------------------------- E12: no memory left
MIB = 2**20


class Group:
    """The files of a control group, of version 2 as a container sees its own, or of version 1."""

    def __init__(self, folder: Path, version: int, limit: str) -> None:
        self.folder = folder if version == 2 else folder / "memory"
        self.folder.mkdir(exist_ok=True)
        self.names = (
            ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        self.rows = ("file", "shmem") if version == 2 else ("total_cache", "total_shmem")
        self.own = folder / "own"
        self.own.write_text("0::/\n" if version == 2 else "12:pids:/kubepods/x\n4:memory:/kubepods/x\n0::/\n")
        (self.folder / self.names[0]).write_text(f"{limit}\n")
        self.use(0)

    def use(self, mib: int, cache_mib: int = 0, shared_mib: int = 0) -> None:
        stat_ = f"anon 1\n{self.rows[0]} {cache_mib * MIB}\n{self.rows[1]} {shared_mib * MIB}\n"
        for name, text in ((self.names[1], f"{mib * MIB}\n"), ("memory.stat", stat_)):
            fresh = self.folder / "fresh"
            fresh.write_text(text)
            os.replace(fresh, self.folder / name)  # as the kernel shows it: never half of it

    def memory(self) -> Memory:
        return Memory(self.folder if self.folder.name != "memory" else self.folder.parent, self.own)


@pytest.mark.parametrize("version", [1, 2])
def test_e12_the_limit_is_the_containers_and_caches_are_not_counted(tmp_path: Path, version: int) -> None:
    group = Group(tmp_path, version, str(512 * MIB))
    group.use(400, cache_mib=200, shared_mib=50)
    memory = group.memory()
    assert (memory.limit_bytes, memory.used_bytes()) == (512 * MIB, 250 * MIB)


@pytest.mark.parametrize(("version", "none"), [(1, "9223372036854771712"), (2, "max")])
def test_e12_without_a_limit_nothing_is_shed(tmp_path: Path, version: int, none: str) -> None:
    group = Group(tmp_path, version, none)
    group.use(10**6)
    assert (group.memory().limit_bytes, group.memory().used_bytes()) == (0, 0)


async def test_e12_near_its_limit_it_refuses_what_has_gone_nowhere_and_ends_what_has(tmp_path: Path) -> None:
    released = asyncio.Event()

    async def script(connection: Connection) -> None:
        while data := await connection.request():
            if b'"stream":true' not in data:
                await connection.send(answer_bytes())
                continue
            await connection.send(STREAM_HEAD + chunk(ROLE) + chunk(delta("first ")))
            await released.wait()
            await connection.send(chunk(delta("last")) + chunk(delta(None, "stop") + DONE) + chunk(b""))

    group = Group(tmp_path, 2, str(100 * MIB))
    async with upstream(script) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        served.gateway.vitals.memory = group.memory()
        group.use(89)
        async with caller(served) as streaming, caller(served) as sending:
            await streaming.send(request(chat(stream=True)))
            assert await streaming.head() == 200
            whole = request(chat(user="x" * 200_000))
            await sending.send(whole[:1000])
            await eventually(lambda: len(served.gateway.live) == 2, "the calls did not begin")

            group.use(92)
            await eventually(lambda: served.gateway.live.shed, "it sheds nothing")
            await sending.send(whole[1000:100_000])
            for answer, ends in ((await sending.answer(), None), (await ask(served), "close")):
                assert (answer.status, answer.error["code"]) == (503, "overloaded")
                assert "short of memory" in answer.error["message"]
                assert (answer.headers["retry-after"], answer.headers.get("connection")) == ("1", ends)
            assert len(cloud.requests) == 1
            assert (await get(served.port, "/readyz")).status == 503
            assert (await get(served.port, "/healthz")).status == 200

            group.use(87)
            await beats(served, 3)
            assert (await ask(served)).status == 503  # not at once, lest it goes on and off
            group.use(84)
            await eventually(lambda: not served.gateway.live.shed, "it sheds for ever")
            assert (await ask(served)).status == 200
            assert (await get(served.port, "/readyz")).status == 200
            await sending.send(whole[100_000:] + request(chat()))  # read to its end
            assert (await sending.answer()).status == 200

            released.set()
            text = b"".join([piece async for piece in pieces(streaming)])
            assert text.endswith(DONE)
        assert "arriero_memory_limit_bytes 1.048576e+08\n" in served.metrics()
        assert "arriero_memory_used_bytes 8.8080384e+07\n" in served.metrics()


async def test_e12_a_body_that_memory_has_no_room_for_is_not_begun(tmp_path: Path) -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        group = Group(tmp_path, 2, str(100 * MIB))
        served.gateway.vitals.memory = group.memory()
        group.use(50)  # of 90: ten may come, for four times as much is needed
        await beats(served, 2)
        large, larger = request(chat(user="x" * 8 * MIB)), request(chat(user="x" * 11 * MIB))
        async with caller(served) as first, caller(served) as second, caller(served) as third:
            await first.send(larger[:1000])
            answer = await first.answer()
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
            assert "short of memory" in answer.error["message"]
            await second.send(large[:1000])
            await eventually(lambda: len(served.gateway.live) == 1, "the call did not begin")
            await third.send(large[:1000])
            assert (await third.answer()).status == 503  # not both at once
            await second.send(large[1000:])
            assert (await second.answer()).status == 200
            await beats(served, 5)
            await third.send(large[1000:] + large)
            assert (await third.answer()).status == 200
        assert not served.gateway.live.shed


async def beats(served: Served, count: int) -> None:
    wanted = lags(served)["count"] + count
    await eventually(lambda: lags(served)["count"] >= wanted, "it does not beat")


async def pieces(client: Caller) -> AsyncIterator[bytes]:
    while piece := await client.piece():
        yield piece
