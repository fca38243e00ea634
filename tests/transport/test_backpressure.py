"""A slow reader slows the upstream: what is buffered for it stays bounded, and nobody else is slowed."""

import asyncio

from gateway.transport.client import Origin
from tests.transport.upstreams import CHUNKED, ClientOf, Peer, Upstream, ask, send

MIB = 1024 * 1024
KERNEL_BYTES = 24 * MIB  # what the sockets of both ends may hold on loopback (tcp_rmem, tcp_wmem)
READ_BYTES = 262_144  # one read of the event loop


class Flood:
    """Sends `total` bytes as fast as they are taken, and counts them."""

    def __init__(self, total: int) -> None:
        self.total, self.sent = total, 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        piece = b"x" * 65_536
        while self.sent < self.total:
            await peer.send(b"10000\r\n" + piece + b"\r\n")
            self.sent += len(piece)
        await peer.send(b"0\r\n\r\n")
        await peer.gone()


async def test_96_mb_for_a_slow_reader_are_never_held_here(client_of: ClientOf) -> None:
    flood = Flood(96 * MIB)
    async with Upstream(flood) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        received, pieces = 0, 0
        while piece := await response.chunk():
            response.alive()
            received += len(piece)
            pieces += 1
            assert len(piece) <= client.origin.max_buffer_bytes + READ_BYTES
            assert flood.sent - received <= KERNEL_BYTES
            for _ in range(100 if pieces < 20 else 3):  # time enough for the upstream to push all of it
                await asyncio.sleep(0)
        assert received == 96 * MIB


async def test_a_reader_that_never_reads_stops_the_upstream(client_of: ClientOf) -> None:
    flood = Flood(96 * MIB)
    async with Upstream(flood) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        for _ in range(5_000):
            await asyncio.sleep(0)
        assert 0 < flood.sent <= KERNEL_BYTES
        await response.aclose()
        assert client.open_connections == 0
        await upstream.until_live(0)


async def test_reading_a_whole_answer_is_not_stopped_by_the_bound_of_the_buffer(client_of: ClientOf) -> None:
    flood = Flood(16 * MIB)
    async with Upstream(flood) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_buffer_bytes=1000))
        response = await send(client)
        for _ in range(50):  # it is paused before anybody reads
            await asyncio.sleep(0)
        assert len(await response.read()) == 16 * MIB
        assert client.idle_connections == 1


async def test_an_answer_closed_while_its_upstream_was_paused_is_not_kept(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 4000\r\n\r\n" + b"x" * 4000)
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_buffer_bytes=1000))
        response = await send(client)
        await response.aclose()
        assert client.open_connections == 0
        assert len(await ask(client)) == 4000
        assert upstream.accepted == 2


async def test_a_stopped_stream_does_not_stop_the_others(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 1:
            await Flood(96 * MIB)(peer)
        while True:
            await peer.answer()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        stopped = await send(client)
        for _ in range(20):
            assert await ask(client) == b"hello"
        await stopped.aclose()
