"""Failure catalogue B1 to B6, B20, B22: connections that fail before, beside or after an answer."""

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.transport.client import Client, Origin, request_head
from tests.failures.stage import (
    GOOD,
    WORDS,
    answering,
    hanging_up,
    refusing,
    resetting,
    silent,
    stage,
    streaming,
    timeouts,
)
from tests.harness import PATIENCE_S, STREAM_HEAD, Connection, Script, answer_bytes, caller, chat, chunk, upstream


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """A URL at which nobody listens, and nobody else will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"


@contextlib.contextmanager
def blackhole() -> Iterator[str]:
    """A URL whose host takes no more connections and says nothing: a listener whose queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


async def test_b1_a_refused_connection_fails_over_within_20_ms() -> None:
    with closed_port() as url:
        async with stage(url, answering()) as on:
            times = []
            for _ in range(20):
                answer = await on.ask()
                assert (answer.status, answer.headers["x-arriero-deployment"]) == (200, "b")
                kept = on.served.decisions()[0].attempts[0]
                times.append(kept.seconds)
            assert sorted(times)[len(times) // 2] < 0.02
            assert on.outcomes() == ["refused", "ok"]
        async with stage(url) as on:
            answer = await on.ask()
            assert (answer.status, answer.error["code"]) == (502, "upstream_error")


async def test_b2_only_the_first_calls_wait_for_a_host_that_takes_no_connections() -> None:
    with blackhole() as url:
        async with stage(
            url, answering(), account=timeouts(connect_s=0.2), route_fields={"policies": ["breaker"]}
        ) as on:
            seconds = []
            for _ in range(12):
                began = time.monotonic()
                assert (await on.ask()).status == 200
                seconds.append(time.monotonic() - began)
            tried = [kept for kept in on.served.decisions() if len(kept.attempts) == 2]
            assert [kept.attempts[0].outcome for kept in tried] == ["connect_timeout"] * 5
            assert all(0.15 < taken < 1.0 for taken in seconds[:5])
            assert max(seconds[5:]) < 0.15
        async with stage(url, account=timeouts(connect_s=0.1)) as on:
            answer = await on.ask()
            assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("stream", [False, True])
async def test_b3_a_cloud_that_never_answers_is_left_at_the_first_byte_limit(stream: bool) -> None:
    second = GOOD if stream else answering()
    async with stage(silent, second, account=timeouts(first_byte_s=0.2)) as on:
        answer = await on.ask(chat(stream=stream))
        assert answer.status == 200
        assert 0.15 < answer.seconds < 1.5
        assert on.outcomes() == ["first_byte_timeout", "ok"]
        await asyncio.wait_for(on.clouds[0].gone.wait(), PATIENCE_S)  # its socket was closed
        assert on.client("a").open_connections == 0
    async with stage(silent, silent, account=timeouts(first_byte_s=0.1)) as on:
        answer = await on.ask(chat(stream=stream))
        assert (answer.status, answer.error["code"], answer.error["type"]) == (504, "upstream_timeout", "timeout_error")
    async with stage(silent, refusing(500), account=timeouts(first_byte_s=0.1)) as on:
        assert (await on.ask(chat(stream=stream))).status == 502


async def test_b3_no_further_attempt_is_made_for_a_client_that_left() -> None:
    async with stage(silent, answering(), account=timeouts(first_byte_s=0.3)) as on:
        async with caller(on.served) as client:
            await client.send(on.request(chat()))
            await on.clouds[0].asked.wait()
        await asyncio.wait_for(on.clouds[0].gone.wait(), 0.25)
        await on.served.at_rest()
        await asyncio.sleep(0.35)  # past the limit at which a second attempt would be due
        assert on.asked() == [1, 0]
        assert on.outcomes() == ["client_gone"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", [resetting, hanging_up], ids=["rst", "fin"])
async def test_b4_b5_a_connection_that_breaks_before_the_first_byte_fails_over(fault: Script, stream: bool) -> None:
    async with stage(fault, GOOD if stream else answering()) as on:
        for _ in range(20):
            answer = await on.ask(chat(stream=stream))
            assert (answer.status, answer.headers["x-arriero-deployment"]) == (200, "b")
        assert on.asked() == [20, 20]
    async with stage(fault, fault) as on:
        answer = await on.ask(chat(stream=stream))
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")


async def half_a_head(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-le")


async def half_a_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(answer_bytes()[:-10])


@pytest.mark.parametrize("fault", [half_a_head, half_a_body])
async def test_b5_a_plain_answer_that_breaks_off_fails_over(fault: Script) -> None:
    async with stage(fault, answering()) as on:
        assert (await on.ask()).status == 200
        assert on.outcomes() == ["closed", "ok"]
        assert on.asked() == [1, 1]


@pytest.mark.parametrize("events", [[], [b": ping\n\n"], [b"data: [DONE]\n\n"]], ids=["nothing", "comment", "done"])
@pytest.mark.parametrize("end", ["end", "close", "reset"])
async def test_b5_a_stream_without_any_content_fails_over(events: list[bytes], end: str) -> None:
    async with stage(streaming(*events, end=end), GOOD) as on:
        answer = await on.stream()
        assert (answer.status, answer.deltas, answer.done) == (200, WORDS, True)
        assert on.asked() == [1, 1]


async def test_b6_a_kept_connection_that_the_cloud_closed_costs_no_error_and_no_retry() -> None:
    async def once(connection: Connection) -> None:  # closes at each second request instead of answering
        await connection.request()
        await connection.send(answer_bytes())
        await connection.request()

    none = {"attempts": {"max": 1, "retry_budget": 0.0, "retry_floor_per_s": 0.0}}
    async with stage(once, **none) as on:
        for _ in range(50):
            answer = await on.ask()
            assert (answer.status, answer.headers["x-arriero-attempts"]) == (200, "1")
        cloud = on.clouds[0]
        assert cloud.connections == 50
        assert len(cloud.requests) == 99
        assert on.facts().failures == 0


async def test_b6_a_cloud_that_closes_idle_connections_in_the_same_moment_is_never_an_error() -> None:
    chance = random.Random(6)

    async def impatient(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer_bytes())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(0.0, 0.004)):
                await connection.reader.readexactly(1)

    async with stage(impatient) as on:
        for _ in range(150):
            assert (await on.ask()).status == 200
            await asyncio.sleep(chance.uniform(0.0, 0.004))


WRONG = {
    "a length too long": answer_bytes().replace(b"content-length: ", b"content-length: 9", 1),
    "two lengths": answer_bytes().replace(b"content-length", b"content-length: 5\r\ncontent-length", 1),
    "a length and chunks": answer_bytes().replace(
        b"content-length", b"transfer-encoding: chunked\r\ncontent-length", 1
    ),
    "a negative length": answer_bytes().replace(b"content-length: ", b"content-length: -", 1),
    "a bad chunk size": STREAM_HEAD.replace(b"text/event-stream", b"application/json") + b"zz\r\n{}\r\n0\r\n\r\n",
    "chunks cut short": STREAM_HEAD.replace(b"text/event-stream", b"application/json") + b"ff\r\n{}",
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "HTTP/3.7": b"HTTP/3.7 200 OK\r\n\r\n",
    "a bad status": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "an unknown encoding of transfer": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx",
}


@pytest.mark.parametrize("answer", WRONG.values(), ids=WRONG)
async def test_b20_an_answer_whose_framing_lies_fails_over_and_its_connection_is_not_used_again(answer: bytes) -> None:
    async def lying(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer)

    async with stage(lying, answering()) as on:
        assert (await on.ask()).status == 200
        assert on.asked() == [1, 1]
        assert on.client("a").open_connections == 0


async def test_b20_what_follows_an_answer_is_never_taken_for_the_next() -> None:
    planted = answer_bytes("planted")

    async def trailing(connection: Connection) -> None:
        while await connection.request():
            await connection.send(answer_bytes("real") + planted)

    async with stage(trailing) as on:
        for _ in range(5):
            answer = await on.ask()
            assert answer.json()["choices"][0]["message"]["content"] == "real"
        assert on.clouds[0].connections == 5


async def test_b20_a_stream_with_a_bad_chunk_size_ends_as_incomplete() -> None:
    async def bad(connection: Connection) -> None:
        await connection.request()
        good = [chunk(event) for event in (b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',)]
        await connection.send(STREAM_HEAD + b"".join(good) + b"-5\r\nx")
        await connection.closed()

    async with stage(bad, GOOD) as on:
        answer = await on.stream()
        assert answer.fault is not None
        assert (answer.deltas, answer.done, answer.fault["code"]) == (["x"], False, "stream_incomplete")
        assert on.asked() == [1, 0]


@contextlib.asynccontextmanager
async def client_of(script: Script, **fields: Any) -> AsyncIterator[Client]:
    async with upstream(script) as cloud:
        client = Client(Origin(url=f"http://127.0.0.1:{cloud.port}", **fields))
        yield client
        await client.aclose()


async def test_b22_attempts_cancelled_at_random_points_leave_the_pool_as_it_was() -> None:
    chance = random.Random(22)
    head = request_head("POST", "/", "h", [], 0)

    async def call(client: Client) -> None:
        response = await client.request(head, b"")
        try:
            await response.read()
        finally:
            response.close()

    async with client_of(answering(), max_connections=8) as client:
        for _ in range(120):
            tasks = [asyncio.create_task(call(client)) for _ in range(20)]
            while not all(task.done() for task in tasks):
                chance.choice(tasks).cancel()
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(0)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(r is None or isinstance(r, asyncio.CancelledError) for r in results)
            assert (client.leased, client.waiting) == (0, 0)
            assert client.open_connections == client.idle_connections <= 8
        await call(client)


async def test_b22_a_full_pool_refuses_as_busy_and_is_itself_again_afterwards() -> None:
    account = {"max_connections": 2} | timeouts(connect_s=0.1)

    async def slow(connection: Connection) -> None:
        while await connection.request():
            await release.wait()
            await connection.send(answer_bytes())

    release = asyncio.Event()
    async with stage(slow, account=account) as on:
        calls = [asyncio.create_task(on.ask()) for _ in range(5)]
        done, waiting = await asyncio.wait(calls, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 3:
            more, waiting = await asyncio.wait(waiting, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert [task.result().status for task in done] == [503, 503, 503]
        release.set()
        assert [(await task).status for task in waiting] == [200, 200]
        assert (await on.ask()).status == 200
        assert on.asked() == [3]


async def test_an_error_answer_whose_body_never_ends_does_not_hold_up_the_next_attempt() -> None:
    async def dawdling(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 500 X\r\ncontent-length: 100\r\n\r\n{")
        await connection.closed()

    async with stage(dawdling, answering()) as on:
        answer = await on.ask()
        assert (answer.status, on.outcomes()) == (200, ["server_error", "ok"])
        assert answer.seconds < 5
