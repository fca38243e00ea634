"""Requests and answers of every framing, and what becomes of the connection afterwards."""

import asyncio

import pytest

from gateway.transport.client import Origin
from tests.transport.upstreams import (
    CHUNKED,
    OK,
    ClientOf,
    Peer,
    Upstream,
    answering,
    ask,
    chunks,
    failure,
    head_of,
    saying,
    saying_once,
    send,
)

MIB = 1024 * 1024


async def test_a_request_arrives_as_it_was_given_and_its_answer_comes_back(client_of: ClientOf) -> None:
    got = []

    async def script(peer: Peer) -> None:
        got.append(await peer.answer(b"HTTP/1.1 201 Made\r\nX-A: 1\r\ncontent-length: 2\r\n\r\nhi"))
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client, b"question")
        assert (response.status, response.headers) == (201, {"x-a": "1", "content-length": "2"})
        assert await response.read() == b"hi"
        assert got == [head_of(size=8) + b"question"]
        assert (client.open_connections, client.idle_connections, client.leased) == (1, 1, 0)


async def test_one_connection_serves_request_after_request(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        for _ in range(20):
            assert await ask(client) == b"hello"
        assert upstream.accepted == 1


async def test_the_connection_used_last_is_used_next(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % peer.number)

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        first, second = await send(client), await send(client)
        numbers = [await first.read(), await second.read()]
        assert [await ask(client) for _ in range(3)] == [numbers[1]] * 3
        assert upstream.accepted == 2


ANSWERS = {
    "length": (OK, b"hello", True),
    "length 0": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", True),
    "chunked": (CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello", True),
    "chunked with extension and trailer": (CHUNKED + b"5;x=y\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n", b"hello", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "304": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b"", True),
    "after 1xx": (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"hello", True),
    "a redirect": (b"HTTP/1.1 307 T\r\nlocation: http://169.254.169.254/\r\ncontent-length: 2\r\n\r\nno", b"no", True),
    "connection: close": (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
    "bytes beyond": (OK + b"HTTP/1.1 200 OK\r\n", b"hello", False),
    "garbage beyond": (OK + b"\x00garbage", b"hello", False),
    "garbage beyond chunks": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\nmore", b"hello", False),
}


@pytest.mark.parametrize(("wire", "body", "kept"), ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("way", ["read", "chunk"])
async def test_an_answer_ends_by_its_framing(
    client_of: ClientOf, wire: bytes, body: bytes, kept: bool, way: str
) -> None:
    async with Upstream(saying(wire)) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        assert response.status == int(wire.split(b"HTTP/1.")[-1 if b"103" in wire else 1].split()[1])
        assert (await response.read() if way == "read" else (await chunks(response))[0]) == body
        assert client.idle_connections == kept
        assert await response.read() == b""
        assert await response.chunk() == b""
        await ask(client)
        assert upstream.accepted == (1 if kept else 2)


async def test_a_body_without_framing_ends_with_the_connection(client_of: ClientOf) -> None:
    async with Upstream(saying_once(b"HTTP/1.1 200 OK\r\n\r\nto the end")) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        assert await ask(client) == b"to the end"
        assert await chunks(await send(client)) == (b"to the end", None)
        assert client.open_connections == 0


async def test_an_answer_to_head_has_no_body_and_its_connection_is_not_kept(client_of: ClientOf) -> None:
    async with Upstream(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client, method="HEAD")
        assert (response.headers["content-length"], await response.read()) == ("5", b"")
        assert client.open_connections == 0


async def test_a_stream_is_given_piece_by_piece_as_it_comes(client_of: ClientOf) -> None:
    go = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for number in range(5):
            await go.acquire()
            await peer.send(b"8\r\ndata: %d\n\r\n" % number)
        await go.acquire()
        await peer.send(b"0\r\n\r\n")
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        for number in range(5):
            go.release()
            assert await response.chunk() == b"data: %d\n" % number
        assert client.leased == 1
        go.release()
        assert await response.chunk() == b""
        assert client.idle_connections == 1


async def test_pieces_that_wait_are_given_together(client_of: ClientOf) -> None:
    async with Upstream(saying(CHUNKED + b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")) as upstream:
        response = await send(client_of(Origin(url=upstream.origin())))
        assert await response.chunk() == b"abc"
        assert await response.chunk() == b""


async def test_ready_waits_without_taking(client_of: ClientOf) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED)
        await go.wait()
        await peer.send(b"2\r\nhi\r\n0\r\n\r\n")
        await peer.gone()

    async with Upstream(script) as upstream:
        response = await send(client_of(Origin(url=upstream.origin())))
        assert not await response.ready(0.02)
        assert not await response.ready(0.0)
        go.set()
        assert await response.ready(20)
        assert await response.ready(0.0)
        assert await response.chunk() == b"hi"
        assert await response.ready(0.0)
        assert await response.chunk() == b""


@pytest.mark.parametrize("size", [256 * 1024, 256 * 1024 + 1, 3 * MIB])
async def test_a_large_request_arrives_whole(client_of: ClientOf, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    got = []

    async def script(peer: Peer) -> None:
        while True:
            got.append(await peer.answer())

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        for _ in range(2):
            assert await ask(client, body) == b"hello"
        assert [request.endswith(b"\r\n\r\n" + body) for request in got] == [True, True]
        assert upstream.accepted == 1


async def test_an_answer_before_the_request_was_written_is_delivered(
    client_of: ClientOf,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await released.wait()  # and nothing more is read

    released = asyncio.Event()
    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client, b"x" * 64 * MIB)
        assert (response.status, await response.read()) == (413, b"no")
        assert client.open_connections == 0
        released.set()


async def test_an_answer_of_more_than_the_bound_is_refused_before_it_is_read(client_of: ClientOf) -> None:
    async with Upstream(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 1000001\r\n\r\n")) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_answer_bytes=1_000_000))
        error = await failure((await send(client)).read())
        assert (error.kind, error.sent) == ("too_large", True)
        assert "1000000 bytes" in error.message
        assert client.open_connections == 0


async def test_an_answer_that_grows_beyond_the_bound_is_cut(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED)
        while True:
            await peer.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_answer_bytes=1_000_000))
        assert (await failure((await send(client)).read())).kind == "too_large"
        assert client.open_connections == 0


async def test_an_answer_as_large_as_the_bound_is_read(client_of: ClientOf) -> None:
    wire = b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000
    async with Upstream(saying(wire)) as upstream:
        client = client_of(Origin(url=upstream.origin(), max_answer_bytes=3_000_000))
        for _ in range(2):
            assert len(await ask(client)) == 3_000_000
        assert upstream.accepted == 1


async def test_closing_is_idempotent_and_a_closed_answer_does_not_look_whole(client_of: ClientOf) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(CHUNKED + b"1\r\na\r\n")
        await peer.gone()

    async with Upstream(script) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        response = await send(client)
        for _ in range(3):
            await response.aclose()
        assert client.open_connections == 0
        assert (await failure(response.chunk())).kind == "closed"
        assert (await failure(response.read())).kind == "closed"
        await upstream.until_live(0)


async def test_a_whole_answer_that_nobody_reads_gives_its_connection_back(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        await (await send(client)).aclose()
        assert (client.open_connections, client.idle_connections) == (1, 1)
        assert await ask(client) == b"hello"


async def test_a_closed_client_finishes_what_is_under_way_and_keeps_nothing(client_of: ClientOf) -> None:
    async with Upstream(answering) as upstream:
        client = client_of(Origin(url=upstream.origin()))
        under_way, idle = await send(client), await send(client)
        await idle.read()
        await client.aclose()
        assert (client.leased, client.idle_connections) == (1, 0)
        assert await under_way.read() == b"hello"
        assert await ask(client) == b"hello"
        assert client.open_connections == 0
