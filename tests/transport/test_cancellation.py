"""Cancelled anywhere, a call leaves nothing: no slot, no waiter, no socket; and the next call works."""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable

import pytest

from gateway.errors import UpstreamError
from gateway.transport.client import Client, Origin, Timeouts
from tests.transport.upstreams import (
    CHUNKED,
    PATIENCE_S,
    ClientOf,
    Peer,
    Script,
    Upstream,
    answering,
    ask,
    chunks,
    open_files,
    saying,
    send,
)

STEPS = 40  # turns of the event loop: more than any of the exchanges below takes


async def streaming(peer: Peer) -> None:
    while True:
        await peer.answer(CHUNKED + b"1\r\na\r\n")
        await peer.send(b"1\r\nb\r\n")
        await asyncio.sleep(0)
        await peer.send(b"1\r\nc\r\n0\r\n\r\n")


async def closing(peer: Peer) -> None:
    """Every connection answers once and is stale afterwards."""
    await peer.answer()
    await peer.request()


async def whole(client: Client) -> None:
    await ask(client)


async def stream(client: Client) -> None:
    await chunks(await send(client))


async def large(client: Client) -> None:
    await ask(client, b"x" * 4 * 1024 * 1024)


async def again(client: Client) -> None:
    await ask(client)
    await ask(client)


CASES: dict[str, tuple[Script, Callable[[Client], Awaitable[None]]]] = {
    "a whole answer": (answering, whole),
    "a stream": (streaming, stream),
    "a large request": (answering, large),
    "a stale connection": (closing, again),
}


@pytest.mark.parametrize(("script", "work"), CASES.values(), ids=CASES.keys())
async def test_a_call_cancelled_after_any_number_of_turns_leaves_nothing(
    client_of: ClientOf, script: Script, work: Callable[[Client], Awaitable[None]]
) -> None:
    finished = 0
    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(connect_s=PATIENCE_S)))
        for turns in range(STEPS):
            task = asyncio.ensure_future(work(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            finished += not task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (client.leased, client.waiting) == (0, 0)
            assert client.open_connections == client.idle_connections
        await client.aclose()
        await upstream.until_live(0)
        await asyncio.wait_for(work(client), PATIENCE_S)
    assert 0 < finished < STEPS or work is large  # the cut went through the whole of the exchange


async def test_a_waiter_cancelled_after_any_number_of_turns_loses_no_slot(client_of: ClientOf) -> None:
    """Among them the turn in which the slot was granted but the waiter has not run yet (httpcore #1093)."""
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=1, timeouts=Timeouts(connect_s=PATIENCE_S)))
        for turns in range(STEPS):
            for release in (0, 1, 2):
                held = await send(client)
                waiting = asyncio.create_task(ask(client))
                for turn in range(turns):
                    if turn == turns - release:
                        await held.aclose()
                    await asyncio.sleep(0)
                waiting.cancel()
                await held.aclose()
                await asyncio.gather(waiting, return_exceptions=True)
                assert (client.leased, client.waiting) == (0, 0)
                assert await asyncio.wait_for(ask(client), PATIENCE_S) == b"hello"


@pytest.mark.parametrize("says", [b"keep-alive", b"close"])
async def test_a_granted_slot_passes_to_the_next_in_line(client_of: ClientOf, says: bytes) -> None:
    """The first in line is cancelled after it was granted a connection, or leave to open one."""
    answer = b"HTTP/1.1 200 OK\r\nconnection: %s\r\ncontent-length: 5\r\n\r\nhello" % says
    async with Upstream(saying(answer)) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=1, timeouts=Timeouts(connect_s=PATIENCE_S)))
        held = await send(client)
        first, second = asyncio.create_task(ask(client)), asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        assert client.waiting == 2
        await held.read()
        assert (client.waiting, client.leased) == (1, 1)
        first.cancel()
        assert await asyncio.wait_for(second, PATIENCE_S) == b"hello"
        assert first.cancelled()
        assert upstream.accepted == (1 if says == b"keep-alive" else 2)


@pytest.mark.parametrize("way", ["read", "chunk", "ready"])
async def test_a_cancelled_wait_for_the_body_gives_back_without_being_asked(client_of: ClientOf, way: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED)
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        match way:
            case "read":
                task: asyncio.Future[object] = asyncio.ensure_future(response.read())
            case "chunk":
                task = asyncio.ensure_future(response.chunk())
            case _:
                task = asyncio.ensure_future(response.ready(PATIENCE_S))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert client.open_connections == 0
        await upstream.until_live(0)


async def test_a_cancelled_call_closes_its_socket_within_100_ms(client_of: ClientOf) -> None:
    asked = asyncio.Semaphore(0)
    gone: asyncio.Queue[float] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number % 2:
            await peer.send(CHUNKED + b"1\r\na\r\n")
        asked.release()
        await peer.gone()
        gone.put_nowait(time.monotonic())

    async def work() -> None:
        await chunks(await send(client))

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        took = []
        for _ in range(20):
            task = asyncio.create_task(work())
            await asked.acquire()
            cancelled = time.monotonic()
            task.cancel()
            took.append(await asyncio.wait_for(gone.get(), PATIENCE_S) - cancelled)
            assert client.open_connections == 0
        assert statistics.median(took) < 0.1


async def test_a_cancelled_connect_leaves_no_slot_and_no_socket(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(host="localhost")))
        before = open_files()
        for turns in range(STEPS):
            task = asyncio.create_task(ask(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.aclose()
            assert client.open_connections == 0
        await upstream.until_live(0)
        await ask(client)
        await client.aclose()
        await upstream.until_live(0)
        assert open_files() <= before + 4  # the threads of the name lookup may have some


async def churn(client: Client, cancels: int) -> None:
    """Twenty callers whose calls are cancelled after a random number of turns, until `cancels` were."""
    chance = random.Random(1093)
    left = cancels

    async def call() -> None:
        response = await send(client)
        try:
            if chance.random() < 0.5:
                await response.read()
            else:
                while await response.chunk():
                    response.alive()
        finally:
            await response.aclose()

    async def caller() -> None:
        nonlocal left
        while left > 0:
            task = asyncio.create_task(call())
            for _ in range(chance.randrange(14)):
                await asyncio.sleep(0)
            left -= task.cancel()
            try:
                await task
            except (asyncio.CancelledError, UpstreamError):
                continue

    await asyncio.gather(*(caller() for _ in range(20)))


async def check_after_churn(client: Client, upstream: Upstream, cancels: int) -> None:
    before = open_files()
    await churn(client, cancels)
    assert (client.leased, client.waiting) == (0, 0)
    assert client.open_connections == client.idle_connections <= client.origin.max_connections
    assert await asyncio.wait_for(ask(client), PATIENCE_S) == b"hello"
    await client.aclose()
    await upstream.until_live(0)
    assert client.open_connections == 0
    assert open_files() <= before


async def test_two_thousand_random_cancellations_leave_an_idle_pool(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=6, timeouts=Timeouts(connect_s=PATIENCE_S)))
        await check_after_churn(client, upstream, 2_000)


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_a_hundred_thousand_random_cancellations_leave_an_idle_pool(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=6, timeouts=Timeouts(connect_s=PATIENCE_S)))
        await check_after_churn(client, upstream, 100_000)
