"""Failure catalogue C1 to C3 and C5: clients that leave, at any moment, and what they leave behind."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.failures.stage import DONE, ROLE, Stage, answering, silent, stage, streaming, timeouts
from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Caller,
    Connection,
    Script,
    answer_bytes,
    caller,
    chat,
    chunk,
    delta,
    eventually,
    request,
)

ROUNDS = 10
FAST_S = 0.1

Reach = Callable[[Stage, Caller], Awaitable[None]]
"""What a client waits for before it leaves."""


async def half_an_answer(connection: Connection) -> None:
    await connection.request()
    await connection.send(answer_bytes()[:-20])
    await connection.closed()


async def once_asked(on: Stage, client: Caller) -> None:
    await on.clouds[0].asked.wait()


async def after_five_pieces(on: Stage, client: Caller) -> None:
    await client.head()
    for _ in range(5):
        await client.piece()


async def dripping(connection: Connection) -> None:
    """A stream that goes on and on."""
    await connection.request()
    await connection.send(STREAM_HEAD + chunk(ROLE))

    async def drip() -> None:
        while True:
            await connection.send(chunk(delta("x ")))
            await asyncio.sleep(0.002)

    task = asyncio.create_task(drip())
    await connection.closed()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


LEAVING: dict[str, tuple[bool, Script, Reach]] = {
    "C1 a stream under way": (True, dripping, after_five_pieces),
    "C2 a stream before its head": (True, silent, once_asked),
    "C2 a stream before its first content": (True, streaming(ROLE, end="stall"), once_asked),
    "C3 a plain call before the answer": (False, silent, once_asked),
    "C3 a plain call within the answer": (False, half_an_answer, once_asked),
}


@pytest.mark.parametrize("size", [10, 300_000], ids=["short prompt", "long prompt"])
@pytest.mark.parametrize("goodbye", ["fin", "rst"])
@pytest.mark.parametrize("moment", LEAVING)
async def test_c1_c2_c3_a_client_that_leaves_closes_the_upstream_within_100_ms(
    moment: str, goodbye: str, size: int
) -> None:
    stream, script, reach = LEAVING[moment]
    async with stage(script, answering()) as on:
        cloud = on.clouds[0]
        times = []
        for _ in range(ROUNDS if size == 10 else 3):
            cloud.asked.clear()
            cloud.gone.clear()
            async with caller(on.served) as client:
                await client.send(on.request(chat(stream=stream, user="x" * size)))
                await reach(on, client)
                began = time.monotonic()
                client.close() if goodbye == "fin" else client.reset()
                await asyncio.wait_for(cloud.gone.wait(), PATIENCE_S)
                times.append(cloud.gone_at[-1] - began)
        assert sorted(times)[-2] < FAST_S
        await on.served.at_rest()
        assert on.asked() == [len(times), 0]  # no further attempt
        assert {line["status"] for line in on.served.calls()} == {499}
        assert {line["code"] for line in on.served.calls()} == {"client_gone"}
        assert on.outcomes() == ["client_gone"]
        assert on.client().open_connections == 0
        assert on.facts().failures == 0  # it says nothing about the cloud


async def test_c1_a_stream_that_was_left_is_settled_with_what_had_come() -> None:
    async with stage(streaming(ROLE, *[delta("x ")] * 7, end="stall")) as on, caller(on.served) as client:
        await client.send(on.request(chat(stream=True)))
        await client.head()
        got = b""
        while got.count(b"x ") < 7:
            got += await client.piece()
        client.close()
        await on.served.at_rest()
        (line,) = on.served.calls()
        assert (line["status"], line["output_tokens"], line["deployment"]) == (499, 7, "a")
        attempt = on.served.decisions()[0].attempts[0]
        assert (attempt.outcome, attempt.cost_estimated) == ("client_gone", True)


@pytest.mark.parametrize("stream", [False, True])
async def test_c5_a_client_that_leaves_at_any_moment_is_settled_once(stream: bool) -> None:
    chance = random.Random(5)

    async def staggering(connection: Connection) -> None:
        while await connection.request():
            await asyncio.sleep(chance.uniform(0, 0.002))
            if not stream:
                await connection.send(answer_bytes())
                continue
            await connection.send(STREAM_HEAD)
            for _ in range(3):
                await connection.send(chunk(delta("x ")))
                await asyncio.sleep(chance.uniform(0, 0.001))
            await connection.send(chunk(delta(None, "stop") + DONE) + chunk(b""))

    async with stage(staggering, account={"max_connections": 4}) as on:

        async def leave(patience_s: float) -> None:
            async with caller(on.served) as client:
                await client.send(on.request(chat(stream=stream)))
                await asyncio.sleep(patience_s)

        rounds = 50 if stream else 10
        for _ in range(rounds):
            await asyncio.gather(*(leave(chance.uniform(0, 0.06)) for _ in range(10)))
        await on.served.at_rest()
        statuses = [line["status"] for line in on.served.calls()]
        assert len(statuses) == rounds * 10
        assert set(statuses) == {200, 499}  # both ends were hit
        assert (await on.ask(chat(stream=stream))).status == 200


async def test_c5_a_reset_at_any_moment_is_settled_at_most_once() -> None:
    chance = random.Random(55)
    async with stage(dripping) as on:
        for _ in range(100):
            async with caller(on.served) as client:
                await client.send(request(chat(stream=True)))
                await asyncio.sleep(chance.uniform(0, 0.006))
                client.reset()
        await on.served.at_rest()
        on.calls = len({line["id"] for line in on.served.calls()})
        assert 50 < on.calls <= 100


async def test_c5_a_client_that_leaves_while_the_call_is_cut_is_settled_once() -> None:
    async with stage(dripping) as on:
        for turn in range(6):
            async with caller(on.served) as client:
                await client.send(on.request(chat(stream=True)))
                await after_five_pieces(on, client)
                if turn % 2:
                    client.reset()
                    await asyncio.sleep(0.001 * turn)
                on.served.gateway.live.cut()
                on.served.gateway.live.cut()
                client.close()
                await on.served.at_rest()
        assert {line["status"] for line in on.served.calls()} <= {200, 499}


async def test_half_a_request_body_is_one_line_and_no_attempt() -> None:
    whole = request(chat(user="x" * 100_000))
    async with stage(answering()) as on:
        for size in (len(whole) - 1, len(whole) - 50_000, whole.index(b"\r\n\r\n") + 4):
            on.calls += 1
            async with caller(on.served) as client:
                await client.send(whole[:size])
                await asyncio.sleep(0.02)
        await on.served.at_rest()
        await asyncio.sleep(0.02)
        assert [line["status"] for line in on.served.calls()] == [499, 499, 499]
        assert on.asked() == [0]


async def test_c7_a_request_body_that_stops_coming_is_a_408_and_the_end_of_the_connection() -> None:
    whole = request(chat(user="x" * 100_000), x_arriero_timeout_s="0.3")
    async with stage(answering()) as on:
        for size in (whole.index(b"\r\n\r\n") + 4, len(whole) - 90_000, len(whole) - 1):
            on.calls += 1
            async with caller(on.served) as client:
                await client.send(whole[:size])
                answer = await client.answer()
                assert (answer.status, answer.error["code"]) == (408, "request_timeout")
                assert 0.2 < answer.seconds < 1.0
                assert answer.headers["connection"] == "close"
                assert await client.closed() == b""
        assert on.asked() == [0]


async def test_c7_a_request_body_that_comes_slowly_is_waited_for() -> None:
    whole = request(chat(user="x" * 1000), x_arriero_timeout_s="20")
    async with stage(answering()) as on, caller(on.served) as client:
        on.calls += 1
        for at in range(0, len(whole), 100):
            await client.send(whole[at : at + 100])
            await asyncio.sleep(0.02)
        assert (await client.answer()).status == 200


async def test_c10_the_body_of_a_refused_request_never_becomes_the_next_request() -> None:
    planted = request(chat("planted"))
    body = chat(user="x" * 200_000)[:-1] + b"   " + planted + b"}"
    refused = {
        401: dict[str, str](),
        415: {"authorization": "Bearer k", "content_encoding": "gzip"},
        413: {"authorization": "Bearer k"},
        400: {"authorization": "Bearer k", "x_arriero_timeout_s": "soon"},
    }
    keys = [{"name": "team", "key": "k"}]
    async with stage(answering(), keys=keys, server={"max_body_bytes": 100_000}) as on, caller(on.served) as client:
        for status, headers in refused.items():
            await client.send(on.request(body, **headers))
            assert (await client.answer()).status == status
            await client.send(on.request(chat(), authorization="Bearer k"))
            assert (await client.answer()).status == 200
        assert on.asked() == [4]


async def test_half_a_request_head_is_no_call() -> None:
    async with stage(answering()) as on:
        async with caller(on.served) as client:
            await client.send(request(chat())[:40])
            await asyncio.sleep(0.02)
        assert (await on.ask()).status == 200


async def test_a_client_that_leaves_while_it_waits_for_a_connection_leaves_the_line() -> None:
    async with stage(silent, account={"max_connections": 1} | timeouts(connect_s=10)) as on:
        async with caller(on.served) as first:
            await first.send(on.request(chat()))
            await on.clouds[0].asked.wait()
            async with caller(on.served) as second:
                await second.send(on.request(chat()))
                await eventually(lambda: on.client().waiting == 1, "it does not wait")
            await eventually(lambda: on.client().waiting == 0, "it still waits")
        await on.served.at_rest()
        assert on.asked() == [1]


async def test_a_client_that_stays_is_not_disturbed_by_those_who_leave() -> None:
    async with stage(streaming(ROLE, *[delta("x ")] * 50, delta(None, "stop"), DONE)) as on:

        async def leave() -> None:
            async with caller(on.served) as client:
                await client.send(on.request(chat(stream=True)))
                await client.head()

        for _ in range(20):
            answer, *_ = await asyncio.gather(on.stream(), leave(), leave())
            assert (answer.deltas, answer.done) == (["x "] * 50, True)
