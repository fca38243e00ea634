"""Rows G5, G6, G8, G16: what two servers in a row could read in two ways, what is no HTTP, what is beyond measure."""

import asyncio
import json

import pytest

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
    request,
    route,
    serving,
    upstream,
)

BODY = chat()
SECOND = b"GET /v1/models HTTP/1.1\r\nhost: second\r\n\r\n"


async def answering(connection: Connection) -> None:
    while await connection.request():
        await connection.send(answer_bytes())


def post(*lines: bytes, body: bytes = BODY, version: bytes = b"HTTP/1.1", host: bytes | None = b"host: x") -> bytes:
    """A call with its framing and its host left to the test."""
    first = b"POST /v1/chat/completions " + version
    return b"\r\n".join([first, *([host] if host is not None else []), *lines, b"", body])


def length(said: bytes) -> bytes:
    return b"content-length: " + said


RIGHT = length(b"%d" % len(BODY))
CHUNKS = chunk(BODY) + chunk(b"")


async def refused(data: bytes, status: int = 400) -> str:
    """The one answer that these bytes get before the connection ends: nothing behind them is a request."""
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            await client.send(data + SECOND)
            got = await client.closed()
        assert not cloud.requests
        assert (await ask(served)).status == 200
    head, _, body = got.partition(b"\r\n\r\n")
    assert got.count(b"HTTP/1.1 ") == 1
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


FRAMINGS = {
    "CL.TE": post(length(b"%d" % len(CHUNKS)), b"transfer-encoding: chunked", body=CHUNKS),
    "TE.CL": post(b"transfer-encoding: chunked", length(b"4"), body=CHUNKS),
    "TE.TE": post(b"transfer-encoding: chunked", b"transfer-encoding: identity", body=CHUNKS),
    "TE twice": post(b"transfer-encoding: chunked", b"transfer-encoding: chunked", body=CHUNKS),
    "chunked is not the last": post(b"transfer-encoding: chunked, identity", body=CHUNKS),
    "another coding": post(b"transfer-encoding: xchunked", body=CHUNKS),
    "a quoted coding": post(b'transfer-encoding: "chunked"', body=CHUNKS),
    "a vertical tab": post(b"transfer-encoding: \x0bchunked", body=CHUNKS),
    "a space before the colon": post(b"transfer-encoding : chunked", body=CHUNKS),
    "a folded coding": post(b"transfer-encoding:\r\n chunked", body=CHUNKS),
    "a bare LF": post(b"x: y\ntransfer-encoding: chunked", body=CHUNKS),
    "lengths that differ": post(length(b"1"), RIGHT),
    "lengths that agree": post(RIGHT, RIGHT),
    "lengths in one line": post(length(b"%d, %d" % (len(BODY), len(BODY)))),
    "+5": post(length(b"+%d" % len(BODY))),
    "-5": post(length(b"-%d" % len(BODY))),
    "0x": post(length(b"0x%x" % len(BODY))),
    "5.0": post(length(b"%d.0" % len(BODY))),
    "no length": post(length(b"")),
    "a length beyond 64 bits": post(length(b"9" * 40)),
    "a chunk size of 0x": post(b"transfer-encoding: chunked", body=b"0x" + CHUNKS),
    "a chunk size of +": post(b"transfer-encoding: chunked", body=b"+" + CHUNKS),
    "a chunk size of -": post(b"transfer-encoding: chunked", body=b"-" + CHUNKS),
    "a space before a chunk size": post(b"transfer-encoding: chunked", body=b" " + CHUNKS),
    "a chunk size beyond 64 bits": post(b"transfer-encoding: chunked", body=b"f" * 17 + CHUNKS),
    "a bare LF after a chunk size": post(b"transfer-encoding: chunked", body=CHUNKS.replace(b"\r\n", b"\n", 1)),
    "a bare LF in a chunk extension": post(b"transfer-encoding: chunked", body=b"1;a\nb\r\n{\r\n" + CHUNKS),
    "no CRLF after a chunk": post(b"transfer-encoding: chunked", body=b"%x\r\n%b0\r\n\r\n" % (len(BODY), BODY)),
}


@pytest.mark.parametrize("data", FRAMINGS.values(), ids=FRAMINGS)
async def test_g6_a_framing_that_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(data: bytes) -> None:
    await refused(data)


HEADS = {
    "NUL in a value": post(RIGHT, b"x: a\0b"),
    "CR in a value": post(RIGHT, b"x: a\rb"),
    "a folded value": post(RIGHT, b"x: a", b" b"),
    "a space before the colon": post(RIGHT, b"x : a"),
    "a space in a name": post(RIGHT, b"x y: a"),
    "no name": post(RIGHT, b": a"),
    "no colon": post(RIGHT, b"x"),
    "a space before the first header": post(b" x: a", RIGHT, host=None),
}


@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
async def test_g5_a_header_that_is_none_is_refused(data: bytes) -> None:
    await refused(data)


MEASURES = {
    "a header of 64 KiB": post(RIGHT, b"x: " + b"a" * 65536),
    "1,000 headers": post(RIGHT, *(b"x-%d: a" % i for i in range(1000))),
    "many large headers": post(RIGHT, *(b"x-%d: " % i + b"a" * 4096 for i in range(16))),
}


@pytest.mark.parametrize("data", MEASURES.values(), ids=MEASURES)
async def test_g5_a_head_beyond_measure_is_a_431_however_it_comes(data: bytes) -> None:
    assert "the limit here" in await refused(data, 431)


@pytest.mark.parametrize("behind", [b"0\r\nx: ", b"0\r\n", b"1;"], ids=["one trailer", "many trailers", "an extension"])
async def test_g5_what_comes_behind_a_body_is_bounded_as_its_head_is(behind: bytes) -> None:
    piece = b"x: a\r\n" * 4096 if behind == b"0\r\n" else b"a" * 32768
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            answer = asyncio.create_task(client.closed())
            sent = 0
            try:
                await client.send(post(b"transfer-encoding: chunked", body=chunk(BODY) + behind))
                while not answer.done():
                    await client.send(piece)
                    sent += len(piece)
            except ConnectionError:
                pass  # refused and closed while more was on its way
            assert (await answer)[:12] in (b"HTTP/1.1 431", b"")
        assert sent < 16 * 1024 * 1024  # what fits into the buffers of two sockets, not the test's patience
        assert not cloud.requests
        assert (await ask(served)).status == 200


async def test_g6_a_trailer_is_never_a_header() -> None:
    """A proxy that sets our headers itself passes a client's trailers on as they are."""
    trailer = b"0\r\nx-request-id: trailer\r\nx-arriero-timeout-s: 0\r\n\r\n"
    late = post(b"transfer-encoding: chunked", b"x-request-id: head", body=chunk(BODY) + trailer)
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            await client.send(request(BODY) + late)  # the second waits, and its trailer is there before it begins
            for _ in range(2):
                assert (await client.answer()).status == 200
        assert served.calls()[1]["id"] == "head"


HOSTS = {
    "none": None,
    "two": b"host: a\r\nhost: b",
    "the same twice": b"host: a\r\nhost: a",
    "a slash": b"host: a/v1",
    "a question": b"host: 127.0.0.1/healthz?",
    "a fragment": b"host: a#b",
    "a user": b"host: a@b",
    "a space": b"host: a b",
    "a list": b"host: a, b",
    "letters for a port": b"host: a:b",
    "beyond ASCII": b"host: \xc3\xa9",
}


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
async def test_g8_a_host_that_is_none_or_not_one_is_refused(host: bytes | None) -> None:
    assert "host" in await refused(post(RIGHT, host=host))


@pytest.mark.parametrize("host", ["gateway:8080", "[::1]:8080", "a_service.team-a", "10.0.0.1", ""])
async def test_g8_a_host_is_taken_whichever_it_is(host: str) -> None:
    async with (
        upstream(answering) as cloud,
        serving(config({"r": route("a")}, a=cloud.url)) as served,
        caller(served) as client,
        asyncio.timeout(PATIENCE_S),
    ):
        await client.send(post(RIGHT, host=b"host: " + host.encode()))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("name", ["authorization", "x-arriero-labels", "x-arriero-session", "x-arriero-timeout-s"])
async def test_g6_a_header_of_ours_that_stands_twice_is_refused(name: str) -> None:
    twice = [f"{name}: {value}".encode() for value in ("1", "2")]
    assert f"'{name}' stands twice" in await refused(post(RIGHT, *twice))


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9"])
async def test_g16_another_version_of_http_is_a_505(version: bytes) -> None:
    assert "send HTTP/1.1" in await refused(post(RIGHT, version=version), 505)


@pytest.mark.parametrize(
    "line", [b"CONNECT evil.test:443 HTTP/1.1", b"PRI * HTTP/2.0", b"BREW / HTTP/1.1", b"get / HTTP/1.1"]
)
async def test_g16_a_tunnel_and_a_method_that_nobody_knows_are_refused(line: bytes) -> None:
    await refused(line + b"\r\nhost: x\r\n\r\n")


@pytest.mark.parametrize("method", ["TRACE", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_g16_another_method_is_a_405_that_names_the_right_one(method: str) -> None:
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            await client.send(f"{method} /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert await client.head() == 405
            assert client.headers["allow"] == "POST"
        assert not cloud.requests


@pytest.mark.parametrize(
    "junk", [b"\0\r\n\r\n", post(RIGHT, host=None), FRAMINGS["CL.TE"]], ids=["junk", "host", "CL.TE"]
)
async def test_g6_what_is_refused_behind_a_call_never_lands_in_the_midst_of_its_answer(junk: bytes) -> None:
    go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(STREAM_HEAD + chunk(delta("one")))
        await go_on.wait()
        await connection.send(chunk(delta("two") + delta(None, "stop") + b"data: [DONE]\n\n") + chunk(b""))

    async with upstream(script) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            await client.send(request(chat(stream=True)))
            assert await client.head() == 200
            await client.piece()
            await client.send(junk)
            assert (await ask(served, path="/v1/nothing")).status == 404  # by then the junk was read
            go_on.set()
            rest = await client.closed()
        assert b"HTTP/1.1" not in rest
        assert b"two" in rest
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert len(cloud.requests) == 1


async def test_g16_offers_of_another_protocol_in_a_row_cost_one_connection_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    offer = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
    async with upstream(answering) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        async with caller(served) as client, asyncio.timeout(PATIENCE_S):
            await client.send(offer * 3000)
            assert (await client.closed()).count(b"HTTP/1.1 ") <= 1
        assert (await ask(served)).status == 200
    assert not caplog.records
