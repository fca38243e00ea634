"""How answers leave: whole, checked, and on connections that are kept for a while."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send

from gateway.front.cycle import Cycle
from gateway.front.listener import server

Headers = list[tuple[bytes, bytes]]


class App:
    """Answers every call in the pieces given."""

    def __init__(self, headers: Headers, *pieces: bytes) -> None:
        self.headers, self.pieces = headers, pieces
        self.hot = {"/": self.answer}

    async def answer(self, cycle: Cycle) -> None:
        cycle.begin(200, self.headers)
        for piece in self.pieces:
            cycle.write(piece)
        cycle.write(b"", more=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def asked(app: App, *requests: bytes, keep_alive_s: int = 75) -> AsyncIterator[asyncio.StreamReader]:
    """What a client reads who sends these requests at once on one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = server(app, keep_alive_s)
        serving = asyncio.create_task(found.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        try:
            writer.write(b"".join(requests))
            yield reader
        finally:
            writer.close()
            found.leave()
            await serving


def request(*headers: bytes) -> bytes:
    return b"\r\n".join([b"POST / HTTP/1.1", b"host: x", b"content-length: 0", *headers, b"", b""])


async def test_a_whole_answer_leaves_as_it_was_given() -> None:
    app = App([(b"content-length", b"5"), (b"x-a", b"1")], b"he", b"llo")
    async with asked(app, request(), request(b"connection: close")) as reader:
        first = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: 1\r\n\r\nhello"
        second = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: 1\r\nconnection: close\r\n\r\nhello"
        assert await reader.read() == first + second


async def test_pieces_leave_as_chunks() -> None:
    async with asked(App([], b"he", b"", b"llo"), request(b"connection: close")) as reader:
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert body == b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


@pytest.mark.parametrize("pieces", [[b"hell"], [b"hello!"]])
async def test_an_answer_of_another_length_than_it_says_breaks_off(pieces: list[bytes]) -> None:
    async with asked(App([(b"content-length", b"5")], *pieces), request()) as reader:
        assert not (await reader.read()).endswith(b"hello")


@pytest.mark.parametrize("value", [b"a\r\nx-b: 2", b"a\nx-b: 2", b"a\0"])
async def test_a_header_that_would_become_two_is_never_sent(value: bytes) -> None:
    async with asked(App([(b"x-a", value)]), request()) as reader:
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 500 ")
        assert b"x-" not in answer


async def test_an_idle_connection_is_closed_and_not_before_its_time() -> None:
    async with asked(App([(b"content-length", b"0")]), request(), keep_alive_s=1) as reader:
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(20):
            assert (await reader.read()).endswith(b"\r\n\r\n")
        assert asyncio.get_running_loop().time() - began > 0.9
