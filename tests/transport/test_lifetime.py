"""How long a connection is kept, what happens when its peer closes it first, and who gets it when many wait."""

import asyncio

import pytest

from gateway.transport.client import Client, Origin, Timeouts
from tests.transport.upstreams import (
    OK,
    PATIENCE_S,
    ClientOf,
    Peer,
    Script,
    Upstream,
    answering,
    ask,
    failure,
    saying,
    send,
)


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_connection_idle_for_too_long_is_not_used_again(client_of: ClientOf) -> None:
    clock = Clock()
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin()), clock)
        await ask(client)
        clock.now += 3.9
        await ask(client)
        assert upstream.accepted == 1
        clock.now += 4.1
        await ask(client)
        assert (upstream.accepted, client.open_connections) == (2, 1)


@pytest.mark.parametrize(("said", "kept_s"), [(b"timeout=3", 2.0), (b"timeout=60, max=9", 4.0), (b"timeout=1", 0.0)])
async def test_the_upstream_may_shorten_the_lifetime(client_of: ClientOf, said: bytes, kept_s: float) -> None:
    clock = Clock()
    answer = b"HTTP/1.1 200 OK\r\nkeep-alive: %s\r\ncontent-length: 0\r\n\r\n" % said
    async with Upstream(saying(answer)) as upstream:
        client = client_of(Origin(url=upstream.origin()), clock)
        await ask(client)
        clock.now += kept_s - 0.1 if kept_s else 0.0
        await ask(client)
        assert upstream.accepted == (1 if kept_s else 2)
        clock.now += kept_s + 0.1
        await ask(client)
        assert upstream.accepted == (2 if kept_s else 3)


async def test_idle_connections_are_closed_by_themselves(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(), idle_lifetime_s=0.1))
        responses = [await send(client) for _ in range(3)]
        for response in responses:
            await response.read()
        assert client.idle_connections == 3
        await upstream.until_live(0)
        assert client.open_connections == 0


async def test_a_connection_the_peer_closes_while_idle_is_forgotten_at_once(client_of: ClientOf) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer()
        if peer.number == 1:
            await go.wait()
            return
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), idle_lifetime_s=600))
        await ask(client)
        go.set()
        await asyncio.wait_for(closed(client), PATIENCE_S)
        assert await ask(client) == b"hello"


async def closed(client: Client) -> None:
    while client.open_connections:  # noqa: ASYNC110 - the client has no event for it, and needs none
        await asyncio.sleep(0.001)


async def test_data_on_an_idle_connection_closes_it(client_of: ClientOf) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer()
        await go.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), idle_lifetime_s=600))
        await ask(client)
        go.set()
        await asyncio.wait_for(closed(client), PATIENCE_S)
        assert await ask(client) == b"hello"
        await upstream.until_live(0)


async def stale_once(peer: Peer) -> None:
    """The first connection answers one request and closes when it sees a second one."""
    await peer.answer()
    await peer.request()
    if peer.number > 1:
        await peer.send(OK)
        await peer.gone()


async def reset_once(peer: Peer) -> None:
    await peer.answer()
    await peer.request()
    if peer.number == 1:
        peer.reset()
    else:
        await peer.send(OK)
        await peer.gone()


@pytest.mark.parametrize("script", [stale_once, reset_once], ids=["FIN", "RST"])
async def test_a_stale_connection_is_replaced_by_a_fresh_one(client_of: ClientOf, script: Script) -> None:
    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=1))
        assert await ask(client) == b"hello"
        assert await ask(client, b"again") == b"hello"
        assert (upstream.accepted, client.open_connections) == (2, 1)


async def test_a_stale_connection_is_not_replaced_by_another_kept_one(client_of: ClientOf) -> None:
    """All kept connections may be stale: the one retry must not be spent on the next of them."""

    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        for response in [await send(client) for _ in range(3)]:
            await response.read()
        assert client.idle_connections == 3
        assert await ask(client) == b"hello"
        assert upstream.accepted == 4


async def test_a_kept_connection_that_broke_within_the_answer_is_not_stale(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer()
        await peer.answer(b"HTTP/1.1 2")

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        await ask(client)
        error = await failure(ask(client))
        assert (error.kind, error.sent, upstream.accepted) == ("closed", True, 1)


async def test_a_fresh_connection_that_breaks_is_not_retried(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        assert (await failure(ask(client))).kind == "closed"
        assert upstream.accepted == 1


async def test_a_stale_connection_whose_upstream_is_gone_says_the_request_may_have_been_sent(
    client_of: ClientOf,
) -> None:
    upstream = Upstream(stale_once)
    async with upstream:
        client = client_of(Origin(url=upstream.origin()))
        await ask(client)
        upstream.stop_listening()
        error = await failure(ask(client))
        assert (error.kind, error.sent) == ("refused", True)
        assert client.open_connections == 0


async def test_waiters_are_served_in_the_order_they_came(client_of: ClientOf) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        await ask(client)
        order.append(number)

    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=1, timeouts=Timeouts(connect_s=PATIENCE_S)))
        held = await send(client)
        waiting = []
        for number in range(10):
            waiting.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0)
        assert client.waiting == 10
        waiting[3].cancel()
        waiting[4].cancel()
        await held.read()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == [0, 1, 2, 5, 6, 7, 8, 9]
        assert (upstream.accepted, client.open_connections) == (1, 1)


async def test_a_connection_that_is_lost_between_two_callers_is_replaced(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=1, timeouts=Timeouts(connect_s=PATIENCE_S)))
        held = await send(client)
        waiting = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        connection = held._connection
        await held.read()  # grants it to the one who waits
        assert connection is not None
        connection.connection_lost(ConnectionResetError())  # and this comes before that one runs
        assert await asyncio.wait_for(waiting, PATIENCE_S) == b"hello"
        assert (upstream.accepted, client.open_connections) == (2, 1)


async def test_a_waiter_gets_the_slot_of_a_connection_that_broke(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n" if peer.number == 1 else OK)
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=1, timeouts=Timeouts(connect_s=PATIENCE_S)))
        held = await send(client)
        waiting = asyncio.create_task(ask(client))
        await asyncio.sleep(0)
        await held.aclose()
        assert await waiting == b"hello"
        assert upstream.accepted == 2


async def test_never_more_connections_than_the_bound(client_of: ClientOf) -> None:
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        while True:
            most = max(most, upstream.live)
            await peer.answer()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=5, timeouts=Timeouts(connect_s=PATIENCE_S)))
        bodies = await asyncio.gather(*(ask(client) for _ in range(200)))
        assert bodies == [b"hello"] * 200
        assert most <= 5
        assert upstream.accepted == 5
