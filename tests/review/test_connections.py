"""What clients may do to a connection: offers of other protocols, heads without end, the next call while one ends."""

import asyncio
from typing import Any

from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Connection,
    answer_bytes,
    ask,
    caller,
    chat,
    chunk,
    config,
    delta,
    eventually,
    request,
    route,
    serving,
    upstream,
)

OFFER = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAAQAAP__"}
"""What Java's HttpClient and `curl --http2` add to the first request on a connection."""


async def answering(connection: Connection) -> None:
    while await connection.request():
        await connection.send(answer_bytes())


async def test_an_offer_of_http_2_is_declined_by_answering_in_http_1() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            for _ in range(2):
                await client.send(request(chat(), **OFFER))
                assert (await client.answer()).status == 200
            await client.send(request(chat()))
            assert (await client.answer()).status == 200
        assert [b"upgrade" in data for data in cloud.requests] == [False] * 3


async def test_an_offer_of_http_2_may_come_in_any_pieces() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        data = request(chat(), **OFFER)
        for cut in (10, data.index(b"\r\n\r\n"), data.index(b"\r\n\r\n") + 4, len(data) - 3):
            async with caller(served) as client, asyncio.timeout(PATIENCE_S):
                await client.send(data[:cut])
                for _ in range(20):  # so that they come in two pieces; whichever way, the answer is the same
                    await asyncio.sleep(0)
                await client.send(data[cut:])
                assert (await client.answer()).status == 200


async def test_a_tunnel_is_refused() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            await client.send(b"CONNECT example.test:443 HTTP/1.1\r\nhost: example.test:443\r\n\r\n")
            assert (await client.closed()).startswith(b"HTTP/1.1 4")
        assert (await ask(served)).status == 200


async def test_a_head_without_end_is_refused_before_it_is_held() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        for start in (b"POST /v1/chat/completions HTTP/1.1\r\nx: ", b"POST /"):
            async with caller(served) as client, asyncio.timeout(PATIENCE_S):
                answer = asyncio.create_task(client.closed())
                try:
                    await client.send(start)
                    while not answer.done():
                        await client.send(b"a" * 65536)
                except ConnectionError:
                    pass  # refused and closed while more was on its way
                assert (await answer)[:12] in (b"HTTP/1.1 431", b"")
        assert (await ask(served, x_large="a" * 8000)).status == 200


async def test_a_call_that_follows_a_stream_at_once_still_ends_when_its_client_leaves() -> None:
    """The stream's upstream lingers after [DONE], so that the first call is still tidying up when the next begins."""
    linger, second = asyncio.Event(), asyncio.Event()

    async def script(connection: Connection) -> None:
        data = await connection.request()
        if b'"stream"' in data:
            await connection.send(STREAM_HEAD + chunk(delta("hi") + delta(None, "stop") + b"data: [DONE]\n\n"))
            await linger.wait()
        else:
            second.set()
            await connection.closed()

    async with upstream(script) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            await client.send(request(chat(stream=True)))
            assert (await client.answer()).done
            await client.send(request(chat()))
            await second.wait()
            await eventually(lambda: len(served.calls()) == 1, "the stream was not settled")
        await asyncio.wait_for(cloud.gone.wait(), PATIENCE_S)
        linger.set()
        await served.at_rest()
        assert [call["status"] for call in served.calls()] == [200, 499]


async def test_every_answer_names_its_request() -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        for path in ("/v1/nothing", "/v1/chat/completions/", "/healthz"):
            answer: Any = await ask(served, path=path, x_request_id="mine")
            assert answer.status in (404, 405)
            assert answer.headers["x-request-id"] == "mine"
