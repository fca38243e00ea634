"""Failure catalogue E1 to E3: the real process is asked to go, politely and not, with calls under way."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests import process
from tests.failures.stage import DONE, ROLE
from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Answer,
    Caller,
    Connection,
    Upstream,
    answer_bytes,
    chat,
    chunk,
    config,
    delta,
    eventually,
    request,
    route,
    upstream,
)


class Leaver:
    """`arriero serve` as a process, before a cloud whose streams go on until they are released."""

    def __init__(self, running: process.Running, cloud: Upstream, released: asyncio.Event) -> None:
        self.running, self.cloud, self.released = running, cloud, released
        self.port = int(running.url.rpartition(":")[2])

    async def caller(self) -> Caller:
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))

    async def begin(self, **fields: Any) -> Caller:
        """A call that has reached the cloud; a stream whose first text is here."""
        client = await self.caller()
        before = len(self.cloud.requests)
        await client.send(request(chat(**fields)))
        await eventually(lambda: len(self.cloud.requests) > before, "it did not reach the cloud")
        if fields.get("stream"):
            assert await client.head() == 200
            while b"first" not in await client.piece():
                pass
        return client

    async def get(self, path: str) -> Answer:
        client = await self.caller()
        await client.send(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return await client.answer()

    def signal(self, which: signal.Signals = signal.SIGTERM) -> float:
        self.running.process.send_signal(which)
        return time.monotonic()

    async def until(self, event: str) -> dict[str, Any]:
        """The record of the log with that event."""
        while True:
            for record in self.log():
                if record["event"] == event:
                    return record
            assert self.running.process.poll() is None, self.running.lines
            await asyncio.sleep(0.01)

    async def exit_code(self) -> int:
        code = await asyncio.to_thread(self.running.process.wait, PATIENCE_S)
        await asyncio.to_thread(self.running._reader.join, PATIENCE_S)
        return code

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.running.lines) if line.startswith("{")]

    def calls(self) -> list[dict[str, Any]]:
        return [record for record in self.log() if record["event"] == "call"]

    def said(self) -> str:
        return "\n".join(self.running.lines)


async def rest(client: Caller) -> bytes:
    """All further pieces of a stream."""
    pieces = []
    while piece := await asyncio.wait_for(client.piece(), PATIENCE_S):
        pieces.append(piece)
    return b"".join(pieces)


@contextlib.asynccontextmanager
async def leaver(folder: Path, **server: float) -> AsyncIterator[Leaver]:
    released = asyncio.Event()

    async def script(connection: Connection) -> None:
        while data := await connection.request():
            if b'"stream":true' not in data:
                await released.wait() if b'"user":"slow"' in data else None
                await connection.send(answer_bytes("x" * (24_000_000 if b'"user":"large"' in data else 1)))
                continue
            await connection.send(STREAM_HEAD + chunk(ROLE) + chunk(delta("first ")))
            while not released.is_set() and not connection.reader.at_eof():
                await connection.send(chunk(delta("more ")))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await released.wait()
            await connection.send(chunk(delta("last")) + chunk(delta(None, "stop") + DONE) + chunk(b""))

    async with upstream(script) as cloud:
        document = config({"r": route("a")}, a=cloud.url) | {"server": server}
        file = folder / "config.yaml"
        file.write_text(json.dumps(document))
        with process.serving("--config", str(file), folder=folder) as running:
            yield Leaver(running, cloud, released)
        assert "Traceback" not in "\n".join(running.lines)


async def test_e1_sigterm_with_50_live_streams_cuts_none_and_exits_0_after_the_last(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=0.6, grace_s=30) as on:
        clients = [await on.begin(stream=True) for _ in range(50)]
        plain = await on.begin(user="slow")
        assert (await on.get("/readyz")).status == 200
        asked_at = on.signal()
        while (await on.get("/readyz")).status != 503:
            assert time.monotonic() - asked_at < 0.3
        assert (await on.get("/healthz")).status == 200

        late = await on.caller()  # the listener is still open, and new calls are taken
        await late.send(request(chat()))
        answer = await late.answer()
        assert time.monotonic() - asked_at < 0.6
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await late.closed() == b""

        await asyncio.sleep(max(0.0, asked_at + 0.8 - time.monotonic()))
        later = await on.caller()
        await later.send(request(chat()))
        answer = await later.answer()
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        assert on.running.process.poll() is None

        on.released.set()
        for text in await asyncio.gather(*map(rest, clients)):
            assert text.count(b'"last"') == 1
            assert text.endswith(DONE)
            assert b'"error"' not in text
        answer = await plain.answer()
        ended_at = time.monotonic()
        assert (answer.status, answer.whole) == (200, True)
        assert await on.exit_code() == 0
        assert time.monotonic() - ended_at < 1.0
        statuses = [call["status"] for call in on.calls()]
        assert sorted(statuses) == [200] * 52 + [503]
        assert [call["code"] for call in on.calls() if call["status"] == 200] == [None] * 52


async def test_e1_sigterm_without_live_calls_exits_0_after_the_drain_with_idle_connections_open(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=0.3, grace_s=30) as on:
        idle = await on.begin()
        assert (await idle.answer()).status == 200
        asked_at = on.signal()
        assert await on.exit_code() == 0
        assert 0.25 < time.monotonic() - asked_at < 1.5
        assert await idle.closed() == b""


async def test_e1_an_answer_that_is_still_being_read_is_not_cut_by_the_exit(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=0.0, grace_s=30) as on:
        client = Caller(*await asyncio.open_connection("127.0.0.1", on.port, limit=4096))
        await client.send(request(chat(user="large")))
        assert await client.head() == 200
        await asyncio.sleep(0.2)
        on.signal()
        await asyncio.sleep(1.8)  # a slow reader
        body = await asyncio.wait_for(client.reader.readexactly(int(client.headers["content-length"])), PATIENCE_S)
        assert len(json.loads(body)["choices"][0]["message"]["content"]) == 24_000_000
        assert await on.exit_code() == 0


async def assert_cut(on: Leaver, streams: list[Caller], plain: Caller) -> None:
    for text in await asyncio.gather(*map(rest, streams)):
        events = text.split(b"\n\n")
        assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == "stream_incomplete"
        assert b"[DONE]" not in text
        assert b'"stop"' not in text
    answer = await plain.answer()
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert "retry-after" in answer.headers


async def test_e2_streams_that_outlive_the_grace_period_are_told_that_they_are_incomplete(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=0.0, grace_s=0.5) as on:
        streams = [await on.begin(stream=True) for _ in range(20)]
        plain = await on.begin(user="slow")
        asked_at = on.signal()
        await assert_cut(on, streams, plain)
        assert 0.45 < time.monotonic() - asked_at < 2.0
        assert await on.exit_code() == 0
        assert time.monotonic() - asked_at < 3.0
        assert sorted((call["status"], call["code"]) for call in on.calls()) == [
            *[(200, "stream_incomplete")] * 20,
            (503, "overloaded"),
        ]


async def test_e2_a_client_that_does_not_read_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=0.0, grace_s=0.3) as on:
        client = Caller(*await asyncio.open_connection("127.0.0.1", on.port, limit=4096))
        await client.send(request(chat(stream=True)))
        await client.head()
        asked_at = on.signal()
        assert await on.exit_code() == 0
        assert time.monotonic() - asked_at < 6.0
        assert len(on.calls()) == 1
        client.close()


async def test_e3_a_second_sigterm_cuts_at_once(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=0.2, grace_s=60) as on:
        streams = [await on.begin(stream=True) for _ in range(5)]
        plain = await on.begin(user="slow")
        on.signal()
        await on.until("draining")
        asked_at = on.signal()
        await assert_cut(on, streams, plain)
        assert time.monotonic() - asked_at < 2.0
        assert await on.exit_code() == 0
        assert len(on.calls()) == 6  # the log was flushed


async def test_e3_ctrl_c_twice_exits_130_and_says_what_it_waits_for(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=5, grace_s=60) as on:
        streams = [await on.begin(stream=True) for _ in range(3)]
        plain = await on.begin(user="slow")
        on.signal(signal.SIGINT)
        await on.until("draining")
        said = "4 live calls may end within 60 s; once more to cut them"
        await eventually(lambda: said in on.said(), "what it waits for is not said: {}", on.said)
        assert on.running.process.poll() is None
        on.signal(signal.SIGINT)
        await assert_cut(on, streams, plain)
        assert await on.exit_code() == 130


async def test_e3_ctrl_c_once_without_live_calls_exits_130_at_once(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=5, grace_s=60) as on:
        asked_at = on.signal(signal.SIGINT)
        assert await on.exit_code() == 130
        assert time.monotonic() - asked_at < 1.5


async def test_e3_a_storm_of_signals_is_no_traceback_and_does_not_spoil_the_exit_code(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=0.1, grace_s=60) as on:
        streams = [await on.begin(stream=True) for _ in range(3)]
        on.signal(signal.SIGINT)
        with contextlib.suppress(ProcessLookupError):
            while on.running.process.poll() is None:
                on.signal(signal.SIGTERM)
                await asyncio.sleep(0.002)
        for client in streams:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await rest(client)
        assert await on.exit_code() == 130


async def test_e1_who_asks_for_models_while_it_leaves_is_told_to_go(tmp_path: Path) -> None:
    async with leaver(tmp_path, drain_s=30, grace_s=60) as on:
        await on.begin(stream=True)
        on.signal()
        await on.until("draining")
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{on.running.url}/v1/models")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
