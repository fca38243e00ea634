"""What a call costs is written down once, whatever a cloud says of it and whatever fails on the way."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Answer,
    Connection,
    Served,
    ask,
    chat,
    chunk,
    config,
    delta,
    eventually,
    json_answer,
    request,
    route,
    serving,
    upstream,
)

PRICED = {"account": "a", "model": "m", "price": {"in": 1, "out": 1}}
ODD_USAGE: list[dict[str, Any]] = [
    {"prompt_tokens": -3, "completion_tokens": -1},
    {"prompt_tokens": 10**400, "completion_tokens": 10**30},
    {"prompt_tokens": 3.0, "completion_tokens": 1.5},
    {"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": {"cached_tokens": -2.5}},
    {"prompt_tokens": 3, "prompt_characters": -7, "completion_characters": 10**400},
]


def whole(usage: dict[str, Any]) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    return json_answer({"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})


@pytest.mark.parametrize("usage", ODD_USAGE, ids=range(len(ODD_USAGE)))
async def test_an_answer_with_odd_usage_is_passed_on_and_settled_once(usage: dict[str, Any]) -> None:
    async def script(connection: Connection) -> None:
        while data := await connection.request():
            if b'"stream"' in data:
                events = delta("hi") + delta(None, "stop", usage=usage) + b"data: [DONE]\n\n"
                await connection.send(STREAM_HEAD + chunk(events) + chunk(b""))
            else:
                await connection.send(whole(usage))

    async with upstream(script) as cloud, serving(config({"r": route(PRICED)}, a=cloud.url)) as served:
        assert (await ask(served)).status == 200
        assert (await ask(served, chat(stream=True))).done
        await eventually(lambda: len(served.calls()) == 2, "not settled")
        assert [call["status"] for call in served.calls()] == [200, 200]
        assert not [record for record in served.log() if record["event"] == "bug"]
        assert len(served.decisions()) == 2
        for kept in served.decisions():
            assert [attempt.outcome for attempt in kept.attempts] == ["ok"]
            assert kept.attempts[0].cost_nano >= 0


class Failing:
    """Whatever is done with it fails: a metric that broke."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError


def spent(served: Served) -> Iterator[int]:
    for facts in served.gateway.fleet.health.all():
        yield facts.account.spending.spent.total


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_settlement_that_fails_half_way_is_not_done_again(stream: bool) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
            events = delta("hi") + delta(None, "stop", usage=usage) + b"data: [DONE]\n\n"
            await connection.send(STREAM_HEAD + chunk(events) + chunk(b"") if stream else whole(usage))

    async with upstream(script) as cloud, serving(config({"r": route(PRICED)}, a=cloud.url)) as served:
        bound: Any = served.gateway.fleet.routes["r"].lanes["a"].bound
        bound.output = Failing()
        answer: Answer = await ask(served, chat(stream=stream))
        assert answer.done if stream else answer.status == 200
        await eventually(lambda: served.calls(), "the call left no line")
        assert [record["error"] for record in served.log() if record["event"] == "bug"] == ["ZeroDivisionError"]
        assert len(served.calls()) == 1
        assert list(spent(served)) == [2_000_000_000]
        await served.at_rest()


async def test_a_client_that_does_not_read_the_end_of_its_stream_is_cut() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        piece = delta("x" * 12_000_000) + delta(None, "stop") + b"data: [DONE]\n\n"
        await connection.send(STREAM_HEAD + chunk(piece) + chunk(b""))

    async with upstream(script) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(request(chat(stream=True), x_arriero_timeout_s="5"))
            async with asyncio.timeout(PATIENCE_S):
                await eventually(served.calls, "the call still hangs")
        assert [call["status"] for call in served.calls()] == [499]
        await served.at_rest()
