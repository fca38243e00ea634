"""Failure catalogue E13: probes while the gateway is overloaded, and while all that it depends on is away."""

import asyncio
import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import upstreams
from bench.contender import KEY, Place
from bench.contenders.arriero import Arriero
from bench.contenders.nginx import Nginx
from bench.load import CHAT_BYTES, Target, Wrk, chat_body, first_call
from bench.machine import cores
from bench.process import Process, free_ports, plain_env
from tests.harness import (
    Answer,
    Caller,
    Connection,
    caller,
    chat,
    config,
    eventually,
    request,
    route,
    serving,
    upstream,
)
from tests.kube.tools import ROOT
from tests.needs import need

SATURATING = 16
"""So many callers, each of whom calls again at once, use a core up: with more the rate stays as it is."""


async def get(port: int, path: str) -> Answer:
    client = Caller(*await asyncio.open_connection("127.0.0.1", port))
    try:
        await client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        return await client.answer()
    finally:
        client.close()


@contextlib.contextmanager
def gateway(folder: Path) -> Iterator[tuple[Target, int]]:
    """The gateway of the bench on a core of its own, with its admin port."""
    need("wrk", shutil.which("wrk") is not None)
    need("nginx", shutil.which(Nginx().binary) is not None)
    need("two cores", len(os.sched_getaffinity(0)) > 1)
    folder.mkdir(exist_ok=True)
    port = free_ports(2)
    with upstreams.plain(Nginx().binary, folder / "cloud", cores().others) as cloud:
        command = Arriero(ROOT).command(Place(folder, port, port + 1, cloud))
        with Process(command, cores().contender, folder / "said.log", plain_env()) as process:
            process.until_ready(port, first_call(False), KEY)
            yield Target("Arriero", process, port), port + 1


async def storm(port: int, over: asyncio.Event) -> list[float]:
    """Probes one after the other, each on a connection of its own: how long each took."""
    took = []
    while not over.is_set():
        began = time.monotonic()
        assert (await get(port, "/healthz")).status == 200
        took.append(time.monotonic() - began)
    return took


async def liveness_p99_s(folder: Path, seconds: float) -> float:
    """With ten probes under way at any time, and five times as many callers as use the core up; none of them fails."""
    over = asyncio.Event()
    with gateway(folder) as (target, admin_port):
        probes = [asyncio.create_task(storm(port, over)) for port in (target.port, admin_port) for _ in range(5)]
        wrk = Wrk(cores().others, folder)
        figures = await asyncio.to_thread(wrk.run, target, chat_body(CHAT_BYTES), 5 * SATURATING, seconds)
        over.set()
        took = sorted(itertools.chain.from_iterable(await asyncio.gather(*probes)))
    print(f"{figures['rate']:,.0f} calls/s, {len(took)} probes, p99 {took[int(len(took) * 0.99)] * 1000:.0f} ms")
    assert len(took) > 50
    return took[int(len(took) * 0.99)]


@pytest.mark.soak
async def test_e13_overloaded_five_times_it_answers_a_storm_of_liveness_probes(tmp_path: Path) -> None:
    """p99 below 100 ms with a core of its own; beside other tests far below the 5 s that the chart's probe waits."""
    rounds, bound_s = (3, 0.1) if "ARRIERO_SOAK_CALLS" in os.environ else (1, 2.0)
    assert min([await liveness_p99_s(tmp_path / f"{n}", 3.0 * rounds) for n in range(rounds)]) < bound_s


async def test_e13_liveness_and_readiness_depend_on_no_cloud_and_no_redis(tmp_path: Path) -> None:
    async def silent(connection: Connection) -> None:
        await connection.closed()

    async with upstream(silent) as cloud, upstream(silent) as redis:
        document = config({"r": route("a")}, a=cloud.url)
        document["store"] = {"redis": f"redis://127.0.0.1:{redis.port}/0", "ledger": "none"}
        document["keys"] = [{"name": "k", "key": "key-k", "limits": {"rpm": 1000}}]
        async with serving(document) as served, caller(served) as waiting:
            await waiting.send(request(chat(), authorization="Bearer key-k"))
            await eventually(lambda: len(served.gateway.live) == 1, "the call did not begin")
            began = time.monotonic()
            for port in (served.port, served.admin_port):
                for path in ("/healthz", "/readyz"):
                    assert (await get(port, path)).status == 200
            assert time.monotonic() - began < 2.0
