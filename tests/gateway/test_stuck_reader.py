"""A client that asks for a long stream and never reads it."""

import asyncio
import socket

from tests.harness import STREAM_HEAD, Connection, chunk, config, delta, eventually, route, serving, upstream


async def test_a_client_that_never_reads_is_cut_soon_after_its_deadline() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(STREAM_HEAD)
        while True:
            await connection.send(chunk(delta("x" * 60_000)))

    async with upstream(script) as up, serving(config({"r": route("a")}, a=up.url)) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = b'{"model":"r","stream":true,"messages":[{"role":"user","content":"x"}]}'
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-arriero-timeout-s: 0.3\r\n"
            client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            await eventually(lambda: len(served.gateway.live) == 1, "the call did not begin")
            async with asyncio.timeout(20):
                await eventually(lambda: len(served.gateway.live) == 0, "the call still hangs")
        (call,) = served.calls()
        assert call["status"] == 499 or call["code"] == "stream_incomplete", call
        await served.at_rest()
