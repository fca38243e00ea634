"""What is known of deployments: errors that fade, words of a caller that prove nothing, odd figures of a server."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from gateway.secret import Secret
from providers.vllm import read_metrics
from tests.harness import Clock, Connection, answer_bytes, ask, config, json_answer, request, route, serving, upstream

ECHOES = [
    "1 validation error: messages.0.role Input should be 'user', input: 'the model was not found'",
    "Tool choice: function 'get_weather' not found in tools",
    "Invalid value for tool_choice: the function 'f' does not exist",
]


@pytest.mark.parametrize("message", ECHOES)
async def test_a_fault_of_the_caller_is_his_whatever_its_words_hold(message: str) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            body = {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
            await connection.send(json_answer(body, 400))

    async def other(connection: Connection) -> None:
        while await connection.request():
            await connection.send(answer_bytes())

    async with (
        upstream(script) as one,
        upstream(other) as two,
        serving(config({"r": route("a", "b")}, a=one.url, b=two.url)) as served,
    ):
        answer = await ask(served)
        assert (answer.status, answer.error["message"]) == (400, message)
        assert two.requests == []
        assert served.gateway.fleet.routes["r"].lanes["a"].facts.failures == 0


async def test_errors_fade_where_nothing_new_is_heard() -> None:
    clock = Clock()

    async def script(connection: Connection) -> None:
        await connection.request()
        connection.reset()

    async with upstream(script) as cloud, serving(config({"r": route("a")}, a=cloud.url), clock=clock) as served:
        route_ = served.gateway.fleet.routes["r"]
        for _ in range(6):
            assert (await ask(served)).status == 502
        route_.lanes["a"].facts.succeeded(clock.now)
        (before,) = route_.candidates(clock.now)
        clock.advance(120)
        (after,) = route_.candidates(clock.now)
        assert before.recent > 6.9
        assert after.recent < 0.1


async def test_the_admin_port_refuses_as_openai_would() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()

    async with upstream(script) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        body = json.dumps({"route": "r", "prompt_tokens": "many"}).encode()
        asked = [
            b"GET /admin/decisions?count=0 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            request(body, "/admin/explain", connection="close"),
        ]
        for data in asked:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.admin_port)
            writer.write(data)
            head, _, found = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            assert head.startswith(b"HTTP/1.1 400")
            error = json.loads(found)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["param"] in ("count", "prompt_tokens")


def test_a_gauge_beyond_all_bounds_is_as_good_as_none() -> None:
    seen = read_metrics("vllm:num_requests_waiting 1e999\nvllm:kv_cache_usage_perc 0.5\n")
    assert (seen.queue, seen.kv_used) == (None, 0.5)


def test_a_secret_that_could_not_be_read_is_read_when_it_can(tmp_path: Path) -> None:
    clock = Clock()
    file = tmp_path / "key"
    file.write_text("first")
    secret = Secret(f"file:{file}", clock)
    file.write_bytes(b"\xff\xfe not text")
    clock.advance(2)
    assert secret.reveal() == "first"
    modified = file.stat()
    file.write_text("second")
    os.utime(file, ns=(modified.st_atime_ns, modified.st_mtime_ns))  # within the clock's grain
    clock.advance(2)
    assert secret.reveal() == "second"
