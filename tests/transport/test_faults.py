"""What an upstream can break, which error it becomes, whether the request was sent, and what is left afterwards."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from gateway.transport.client import Client, Origin, Timeouts
from tests.transport.upstreams import (
    CHUNKED,
    OK,
    PATIENCE_S,
    ClientOf,
    Peer,
    Upstream,
    ask,
    chunks,
    failure,
    open_files,
    saying,
    saying_once,
    send,
)

MIB = 1024 * 1024


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@asynccontextmanager
async def blackhole() -> AsyncIterator[int]:
    """A port whose backlog is full: the kernel drops every further SYN, so a connect hangs."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_a_closed_port_is_refused_at_once(client_of: ClientOf) -> None:
    client = client_of(Origin(url=f"http://127.0.0.1:{closed_port()}"))
    error = await failure(send(client))
    assert (error.kind, error.sent) == ("refused", False)
    assert error.message == f"{client.name}: cannot connect (connection refused)"
    assert client.open_connections == 0


async def test_a_connect_that_hangs_ends_at_its_bound(client_of: ClientOf) -> None:
    async with blackhole() as port:
        client = client_of(Origin(url=f"http://127.0.0.1:{port}", timeouts=Timeouts(connect_s=0.1)))
        error = await failure(send(client))
        assert (error.kind, error.sent) == ("connect_timeout", False)
        assert error.message == f"127.0.0.1:{port}: connecting took longer than 0.1 s"
        assert client.open_connections == 0


async def test_silence_ends_at_the_first_byte_bound(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(first_byte_s=0.1)))
        error = await failure(send(client))
        assert (error.kind, error.sent) == ("first_byte_timeout", True)
        assert error.message == f"127.0.0.1:{upstream.port} sent no answer within 0.1 s"
        assert client.open_connections == 0
        await upstream.until_live(0)


async def test_half_a_head_is_no_first_byte(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-le")
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(first_byte_s=0.1)))
        assert (await failure(send(client))).kind == "first_byte_timeout"


async def test_an_upstream_that_takes_no_more_of_the_request_is_cut(client_of: ClientOf) -> None:
    released = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await released.wait()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(first_byte_s=0.2)))
        files = open_files()
        error = await failure(send(client, b"x" * 64 * MIB))
        assert (error.kind, error.sent) == ("first_byte_timeout", True)
        assert "took no more of the request within 0.2 s" in error.message
        assert client.open_connections == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert open_files() == files + 1  # the server's end; ours does not wait until what it holds is taken
        released.set()


async def test_an_end_of_file_amid_the_request_counts_at_once(client_of: ClientOf) -> None:
    """Though the event loop would go on writing what it has."""
    released = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.writer.write_eof()
        await released.wait()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        error = await asyncio.wait_for(failure(send(client, b"x" * 64 * MIB)), PATIENCE_S)
        assert (error.kind, error.sent) == ("closed", True)
        released.set()


BEFORE_AN_ANSWER = {
    "FIN": ("closed", b"", False),
    "RST": ("reset", b"", True),
    "FIN in the head": ("closed", b"HTTP/1.1 200 OK\r\nx-", False),
    "RST in the head": ("reset", b"HTTP/1.1 200 OK\r\nx-", True),
    "FIN after 100": ("closed", b"HTTP/1.1 100 Continue\r\n\r\n", False),
}


@pytest.mark.parametrize(("kind", "wire", "rst"), BEFORE_AN_ANSWER.values(), ids=BEFORE_AN_ANSWER.keys())
async def test_a_fresh_connection_that_breaks_before_the_answer(
    client_of: ClientOf, kind: str, wire: bytes, rst: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(wire)
        if rst:
            peer.reset()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        error = await failure(send(client))
        assert (error.kind, error.sent) == (kind, True)
        assert error.message.endswith("the connection before it answered")
        assert (client.open_connections, upstream.accepted) == (0, 1)


@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize(("rst", "kind"), [(False, "closed"), (True, "reset")], ids=["FIN", "RST"])
async def test_a_stream_that_breaks_gives_what_came_and_then_the_error(
    client_of: ClientOf, pieces: int, rst: bool, kind: str
) -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED + b"".join(b"2\r\n%02d\r\n" % number for number in range(pieces)))
        if rst:
            await read.wait()  # a reset may overtake what is not read yet
            peer.reset()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        first = await response.chunk()
        read.set()
        rest, error = await chunks(response)
        assert first + rest == b"".join(b"%02d" % number for number in range(pieces))
        assert error is not None
        assert (error.kind, error.sent) == (kind, True)
        assert (await failure(response.chunk())).kind == kind
        assert client.open_connections == 0


CUT = {
    "a length not reached": (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", "closed"),
    "no last chunk": (CHUNKED + b"5\r\nhello\r\n", "closed"),
    "inside a chunk": (CHUNKED + b"a\r\nhello", "closed"),
    "inside the last chunk": (CHUNKED + b"5\r\nhello\r\n0\r\n", "closed"),
    "a chunk size that is none": (CHUNKED + b"5\r\nhello\r\nzz\r\n", "protocol"),
    "a chunk longer than its size": (CHUNKED + b"5\r\nhelloo\r\n0\r\n\r\n", "protocol"),
}


@pytest.mark.parametrize(("wire", "kind"), CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize("way", ["read", "chunk"])
async def test_an_answer_that_is_not_whole_is_never_taken_for_whole(
    client_of: ClientOf, wire: bytes, kind: str, way: str
) -> None:
    async with Upstream(saying_once(wire)) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        if way == "read":
            assert (await failure(response.read())).kind == kind
        else:
            got, error = await chunks(response)
            assert got == b"hello"
            assert error is not None
            assert error.kind == kind
        assert client.open_connections == 0


async def test_an_answer_without_framing_that_is_reset_is_not_whole(client_of: ClientOf) -> None:
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await read.wait()
        peer.reset()

    async with Upstream(script) as upstream:
        response = await send(client_of(Origin(url=upstream.origin())))
        assert await response.chunk() == b"hello"
        read.set()
        assert (await failure(response.chunk())).kind == "reset"


WRONG = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "length and chunked": b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x-filler: secret\r\n" * 10_000,
    "1xx without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    "switching protocols": b"HTTP/1.1 101 S\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("wire", WRONG.values(), ids=WRONG.keys())
async def test_what_is_not_http_is_a_protocol_error_that_quotes_nothing(client_of: ClientOf, wire: bytes) -> None:
    async with Upstream(saying(wire)) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        error = await failure(send(client))
        assert (error.kind, error.sent) == ("protocol", True)
        assert error.message.startswith(f"127.0.0.1:{upstream.port} ")
        assert "secret" not in error.message
        assert "SSH" not in error.message
        assert client.open_connections == 0


async def test_a_stall_in_a_stream_ends_at_the_idle_bound(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED + b"5\r\nhello\r\n")
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(idle_s=0.1)))
        got, error = await chunks(await send(client))
        assert got == b"hello"
        assert error is not None
        assert error.kind == "idle_timeout"
        assert error.message == f"127.0.0.1:{upstream.port} sent no data within 0.1 s"
        await upstream.until_live(0)


async def test_a_stall_after_the_head_ends_at_the_idle_bound(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(idle_s=0.1)))
        assert (await failure((await send(client)).read())).kind == "idle_timeout"
        assert (await failure((await send(client)).chunk())).kind == "idle_timeout"
        error = await failure((await send(client)).chunk(0.05))
        assert error.message.endswith("within 0.05 s")


async def pinging(peer: Peer) -> None:
    """Bytes without end that say nothing."""
    await peer.answer(CHUNKED)
    while True:
        await peer.send(b"5\r\n: x\n\n\r\n")
        await asyncio.sleep(0.01)


async def test_bytes_that_nobody_calls_alive_do_not_move_the_idle_bound(client_of: ClientOf) -> None:
    async with Upstream(pinging) as upstream:
        response = await send(client_of(Origin(url=upstream.origin(), timeouts=Timeouts(idle_s=0.2))))

        async def drain() -> None:
            while await response.chunk():
                pass

        assert (await failure(drain())).kind == "idle_timeout"


async def test_bytes_that_are_called_alive_move_the_idle_bound(client_of: ClientOf) -> None:
    async with Upstream(pinging) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(idle_s=0.3)))
        response = await client.request(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"", client.clock() + 0.8)
        _, error = await chunks(response)  # which calls them alive
        assert error is not None
        assert error.kind == "total_timeout"


async def test_every_byte_of_a_whole_answer_moves_the_idle_bound(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n")
        for _ in range(40):
            await peer.send(b"x")
            await asyncio.sleep(0.02)
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(idle_s=0.4)))
        assert await ask(client) == b"x" * 40


@pytest.mark.parametrize("phase", ["connecting", "before the answer", "in the body", "in a stream", "in the queue"])
async def test_the_deadline_of_the_call_holds_in_every_phase(client_of: ClientOf, phase: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if phase in ("in the body", "in a stream"):
            await peer.send(CHUNKED + b"1\r\nx\r\n")
        await peer.gone()

    async def work(client: Client) -> None:
        response = await send(client, within_s=0.15)
        if phase == "in a stream":
            _, error = await chunks(response)
            assert error is not None
            raise error
        await response.read()

    async with Upstream(script) as upstream, blackhole() as dead:
        port = dead if phase == "connecting" else upstream.port
        client = client_of(
            Origin(
                url=f"http://127.0.0.1:{port}",
                timeouts=Timeouts(connect_s=30),
                max_connections=0 if phase == "in the queue" else 9,
            )
        )
        error = await failure(work(client))
        assert error.kind == "total_timeout"
        assert "0.15 s" in error.message
        assert error.sent == (phase not in ("connecting", "in the queue"))
        assert client.open_connections == 0


async def test_a_deadline_that_is_over_sends_nothing(client_of: ClientOf) -> None:
    async with Upstream(saying(OK)) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        error = await failure(send(client, within_s=-1))
        assert (error.kind, error.sent, upstream.accepted) == ("total_timeout", False, 0)


async def test_the_total_bound_of_the_origin_holds_without_a_deadline(client_of: ClientOf) -> None:
    async with Upstream(pinging) as upstream:
        client = client_of(Origin(url=upstream.origin(), timeouts=Timeouts(total_s=0.2)))
        response = await client.request(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", b"")
        _, error = await chunks(response)
        assert error is not None
        assert (error.kind, error.message.split(" ", 1)[1]) == ("total_timeout", "was not done within 0.2 s")


async def test_an_answer_that_was_forgotten_is_closed_at_its_deadline(client_of: ClientOf) -> None:
    async with Upstream(pinging) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        forgotten = await send(client, within_s=0.1)
        await upstream.until_live(0)
        assert client.open_connections == 0
        await forgotten.aclose()
        assert client.open_connections == 0
        _, error = await chunks(forgotten)
        assert error is not None


async def test_a_full_pool_ends_at_its_bound_and_says_so(client_of: ClientOf) -> None:
    async with Upstream(saying(OK)) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_connections=2, timeouts=Timeouts(connect_s=0.1)))
        held = [await send(client) for _ in range(2)]
        error = await failure(send(client))
        assert (error.kind, error.sent) == ("pool_timeout", False)
        assert error.message == f"{client.name}: all 2 connections were busy for 0.1 s"
        assert (client.leased, client.waiting) == (2, 0)
        for response in held:
            assert await response.read() == b"hello"
        assert await ask(client) == b"hello"
