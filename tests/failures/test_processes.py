"""Failure catalogue E1, E4, E5: many streams, several processes; some go, some are killed, others take over."""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests import process
from tests.failures.stage import DONE, ROLE
from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Caller,
    Connection,
    answer_bytes,
    chat,
    chunk,
    config,
    delta,
    request,
    route,
    upstream,
)

END = chunk(delta("last")) + chunk(delta(None, "stop") + DONE) + chunk(b"")


def script(released: asyncio.Event, pause_s: float | None = None):
    """Streams that are quiet until they are released, or for so long."""

    async def run(connection: Connection) -> None:
        while data := await connection.request():
            if b'"stream":true' not in data:
                await connection.send(answer_bytes())
                continue
            await connection.send(STREAM_HEAD + chunk(ROLE) + chunk(delta("first ")))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await released.wait()
            await connection.send(END)

    return run


def written(folder: Path, document: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(document))


@contextlib.asynccontextmanager
async def gateway(folder: Path, cloud_url: str, **server: float) -> AsyncIterator[process.Running]:
    document = config({"r": route("a")}, a={"url": cloud_url, "max_connections": 1000}) | {"server": server}
    written(folder, document)
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, process.serving("--config", "config.yaml", folder=folder))


def port_of(running: process.Running) -> int:
    return int(running.url.rpartition(":")[2])


async def begun(port: int) -> Caller:
    """A stream whose first text is here."""
    client = Caller(*await asyncio.open_connection("127.0.0.1", port))
    await client.send(request(chat(stream=True)))
    assert await client.head() == 200
    while b"first" not in await client.piece():
        pass
    return client


async def rest(client: Caller) -> bytes:
    """All further pieces, as far as they come."""
    text = b""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while piece := await asyncio.wait_for(client.piece(), PATIENCE_S):
            text += piece
    return text


async def exited(running: process.Running) -> int:
    return await asyncio.to_thread(running.process.wait, PATIENCE_S)


async def test_e1_sigterm_with_500_live_streams_cuts_none(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with upstream(script(released)) as cloud, gateway(tmp_path / "a", cloud.url, grace_s=60) as running:
        clients = [await begun(port_of(running)) for _ in range(500)]
        running.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(running.until, "500 live calls may end")
        released.set()
        texts = await asyncio.gather(*map(rest, clients))
        ended_at = time.monotonic()
        assert sum(text.endswith(DONE) and b'"error"' not in text for text in texts) == 500
        assert await exited(running) == 0
        assert time.monotonic() - ended_at < 5.0


async def test_e4_a_killed_process_costs_its_own_streams_alone(tmp_path: Path) -> None:
    released = asyncio.Event()
    async with (
        upstream(script(released)) as cloud,
        gateway(tmp_path / "a", cloud.url) as killed,
        gateway(tmp_path / "b", cloud.url) as other,
    ):
        lost = [await begun(port_of(killed)) for _ in range(20)]
        kept = [await begun(port_of(other)) for _ in range(20)]
        killed.process.kill()
        for text in await asyncio.gather(*map(rest, lost)):
            assert b"[DONE]" not in text
        for _ in range(20):
            client = Caller(*await asyncio.open_connection("127.0.0.1", port_of(other)))
            await client.send(request(chat()))
            assert (await client.answer()).status == 200
            client.close()
        released.set()
        assert all(text.endswith(DONE) for text in await asyncio.gather(*map(rest, kept)))


class Service:
    """What a Service of Kubernetes is to its clients: connections go to a process that was ready a moment ago."""

    def __init__(self) -> None:
        self.known: list[int] = []
        self.ready: list[int] = []
        self._looked = asyncio.Condition()

    async def watch(self) -> None:
        while True:
            self.ready = [port for port in self.known if await self._is_ready(port)]
            async with self._looked:
                self._looked.notify_all()
            await asyncio.sleep(0.1)  # as often as it looks

    async def _is_ready(self, port: int) -> bool:
        try:
            client = Caller(*await asyncio.open_connection("127.0.0.1", port))
            await client.send(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                return (await client.answer()).status == 200
        except (OSError, asyncio.IncompleteReadError):
            return False

    async def until_ready(self, port: int) -> None:
        async with asyncio.timeout(PATIENCE_S), self._looked:
            await self._looked.wait_for(lambda: port in self.ready)


async def calling(service: Service, over: asyncio.Event, failed: list[str], stream: bool) -> int:
    """Calls until it is over, on one connection for as long as the gateway keeps it; how many calls."""
    count, client = 0, None
    while not over.is_set():
        if client is None:
            client = Caller(*await asyncio.open_connection("127.0.0.1", random.choice(service.ready)))
        await client.send(request(chat(stream=stream)))
        answer = await client.answer()
        count += 1
        if not (answer.status == 200 and answer.whole and (not stream or answer.done)):
            failed.append(f"{answer.status} {answer.body[-100:]!r}")
        if answer.headers.get("connection") == "close":
            client.close()
            client = None
    return count


@pytest.mark.soak
async def test_e5_rolling_restarts_under_load_are_not_noticed(tmp_path: Path) -> None:
    restarts = 20 if "ARRIERO_SOAK_CALLS" in os.environ else 3
    service, over, failed = Service(), asyncio.Event(), []
    async with upstream(script(asyncio.Event(), 0.3)) as cloud, contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(gateway(tmp_path / "0", cloud.url, drain_s=3, grace_s=30))
        service.known.append(port_of(running))
        watching = asyncio.create_task(service.watch())
        await service.until_ready(port_of(running))
        callers = [asyncio.create_task(calling(service, over, failed, stream)) for stream in (True, False) * 4]
        for number in range(1, restarts + 1):
            fresh = await stack.enter_async_context(gateway(tmp_path / f"{number}", cloud.url, drain_s=3, grace_s=30))
            service.known.append(port_of(fresh))
            await service.until_ready(port_of(fresh))
            running.process.send_signal(signal.SIGTERM)
            assert await exited(running) == 0
            service.known.remove(port_of(running))
            running = fresh
        over.set()
        counts = await asyncio.gather(*callers)
        watching.cancel()
    assert failed == []
    assert min(counts) > restarts
