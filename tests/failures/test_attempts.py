"""The attempts of one call: how many, how long, with whose credential; and what the only deployment's errors become."""

import asyncio
import json
from typing import Any

import pytest

from tests.failures.stage import (
    GOOD,
    answering,
    hanging_up,
    refusing,
    resetting,
    silent,
    stage,
    streaming,
    timeouts,
    whole,
)
from tests.harness import PATIENCE_S, STREAM_HEAD, Clock, Connection, answer_bytes, chat, chunk, delta, json_answer


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_a_call_gets_at_most_so_many_attempts_and_never_two_at_one_deployment(limit: int) -> None:
    async with stage(*(refusing(503) for _ in range(4)), attempts={"max": limit}) as on:
        for _ in range(3):
            answer = await on.ask()
            assert answer.headers["x-arriero-attempts"] == str(min(limit, 4))
        assert on.asked() == [3 if n < limit else 0 for n in range(4)]


async def test_the_error_names_every_deployment_that_failed_and_how() -> None:
    async with stage(refusing(500), hanging_up, refusing(503)) as on:
        message = (await on.ask()).error["message"]
        assert message.startswith("All 3 attempts failed: a: answered 500; b: ")
        assert message.endswith("; c: answered 503.")


async def test_retries_are_a_tenth_of_the_calls_and_ten_a_second_however_many_fail() -> None:
    clock = Clock()
    async with stage(refusing(503), refusing(503), refusing(503), clock=clock) as on:
        for _ in range(400):
            assert (await on.ask()).status == 503
        first, *others = on.asked()
        assert first == 400
        assert 100 <= sum(others) <= 100 + 40 + 1  # what the floor saved up in ten seconds, and a tenth
        clock.advance(1.0)
        before = sum(on.asked()[1:])
        for _ in range(50):
            await on.ask()
        assert 10 <= sum(on.asked()[1:]) - before <= 10 + 5 + 1


async def test_without_a_budget_there_is_no_second_attempt() -> None:
    async with stage(refusing(503), answering(), attempts={"retry_budget": 0.0, "retry_floor_per_s": 0.0}) as on:
        for _ in range(12):
            assert (await on.ask()).status == 503
        assert on.asked() == [12, 0]


@pytest.mark.parametrize("stream", [False, True])
async def test_c12_the_callers_deadline_ends_all_attempts_together(stream: bool) -> None:
    async with stage(silent, silent, silent, account=timeouts(first_byte_s=0.2)) as on:
        answer = await on.ask(chat(stream=stream), x_arriero_timeout_s="0.3")
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert 0.25 < answer.seconds < 0.9
        assert on.asked() == [1, 1, 0]
        assert on.outcomes() == ["first_byte_timeout", "total_timeout"]


async def test_c12_a_stream_that_outlives_the_callers_deadline_is_incomplete() -> None:
    async with stage(streaming(delta("x"), end="stall")) as on:
        answer = await on.ask(chat(stream=True), x_arriero_timeout_s="0.3")
        assert answer.fault is not None
        assert (answer.deltas, answer.done, answer.fault["code"]) == (["x"], False, "stream_incomplete")
        assert 0.25 < answer.seconds < 0.9
        assert on.facts().failures == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_c12_one_callers_haste_does_not_close_a_deployment_to_the_others(stream: bool) -> None:
    async def slow(connection: Connection) -> None:
        while await connection.request():
            await asyncio.sleep(0.2)
            await connection.send(STREAM_HEAD + b"".join(map(chunk, [*whole("x"), b""])) if stream else answer_bytes())

    async with stage(slow, answering(), route_fields={"policies": ["breaker"]}, attempts={"max": 1}) as on:
        for _ in range(3):
            assert (await on.ask(chat(stream=stream), x_arriero_timeout_s="0.05")).status == 504
        assert (await on.ask(chat(stream=stream))).headers["x-arriero-deployment"] == "a"
        for _ in range(8):
            assert (await on.ask(chat(stream=stream), x_arriero_timeout_s="0.05")).status == 504
        assert on.facts().failures == 0
        assert (await on.ask(chat(stream=stream))).headers["x-arriero-deployment"] == "a"


async def test_c12_a_deployment_that_takes_far_longer_than_ever_is_blamed_whoever_set_the_deadline() -> None:
    async def hanging(connection: Connection) -> None:
        for _ in range(3):
            await connection.request()
            await connection.send(answer_bytes())
        await connection.request()
        await connection.closed()

    async with stage(hanging) as on:
        for _ in range(3):
            assert (await on.ask()).status == 200
        assert (await on.ask(x_arriero_timeout_s="0.5")).status == 504
        assert on.facts().failures == 1


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "", "1e-400"])
async def test_c12_a_deadline_that_is_none_is_refused(value: str) -> None:
    async with stage(answering()) as on:
        answer = await on.ask(x_arriero_timeout_s=value)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        assert on.asked() == [0]


async def test_c12_a_deadline_may_only_tighten() -> None:
    for value in ("100000", "inf", "1e300"):
        async with stage(silent, account=timeouts(first_byte_s=0.1)) as on:
            answer = await on.ask(x_arriero_timeout_s=value)
            assert (answer.status, answer.seconds < PATIENCE_S) == (504, True)


def head(request: bytes) -> dict[str, str]:
    lines = request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return dict(line.split(": ", 1) for line in lines)


@pytest.mark.parametrize("stream", [False, True])
async def test_h2_each_attempt_carries_its_own_credential_and_nothing_of_the_callers(stream: bool) -> None:
    keys = [{"name": "team", "key": "callers-key"}]
    async with stage(refusing(500), resetting, GOOD if stream else answering(), keys=keys) as on:
        answer = await on.ask(
            chat(stream=stream),
            authorization="Bearer callers-key",
            cookie="session=1",
            x_forwarded_for="1.2.3.4",
            x_api_key="callers-other-key",
            x_arriero_session="s",
            x_request_id="id-7",
        )
        assert answer.status == 200
        for name, cloud in zip("abc", on.clouds, strict=True):
            (request,) = cloud.requests
            assert head(request) == {
                "host": f"127.0.0.1:{cloud.port}",
                "authorization": f"Bearer key-of-{name}",
                "content-type": "application/json",
                "accept": "text/event-stream" if stream else "application/json",
                "accept-encoding": "identity",
                "user-agent": "arriero",
                "x-request-id": "id-7",
                "content-length": head(request)["content-length"],
            }
            assert b"callers" not in request
            assert all(f"key-of-{other}".encode() not in request for other in "abc" if other != name)


async def test_h2_nothing_of_a_clouds_headers_comes_back() -> None:
    loud = {"set-cookie": "a=b", "server": "secret-7", "x-request-id": "theirs", "x-arriero-cost-usd": "0", "via": "x"}
    answer_ = answer_bytes().replace(b"\r\n", b"\r\n" + "".join(f"{n}: {v}\r\n" for n, v in loud.items()).encode(), 1)
    async with stage(answering(answer_)) as on:
        answer = await on.ask(x_request_id="mine")
        assert set(answer.headers) == {
            "content-type",
            "content-length",
            "x-request-id",
            "x-arriero-decision",
            "x-arriero-attempts",
            "x-arriero-deployment",
            "x-arriero-cost-usd",
        }
        assert answer.headers["x-request-id"] == "mine"


async def test_h3_our_credential_is_struck_out_of_what_a_cloud_says_of_a_request() -> None:
    echo = {name: f"{name}: Bearer key-of-a" for name in ("message", "type", "param", "code")}
    bodies: list[Any] = [{"error": echo}, {"message": "got key-of-a"}, {"error": "got key-of-a"}]
    async with stage(answering(*(json_answer(body, 400) for body in bodies))) as on:
        for _ in bodies:
            answer = await on.ask()
            assert answer.status == 400
            assert "***" in answer.error["message"]
            assert b"key-of-a" not in answer.body
        assert "key-of-a" not in json.dumps(on.served.log())
        assert "key-of-a" not in on.served.metrics()
        assert "key-of-a" not in repr(on.served.decisions())


async def test_h3_a_clouds_own_words_reach_nobody_whose_fault_it_was_not() -> None:
    words = {"error": {"message": "internal host db-7.corp", "type": "db-7.corp", "code": "db-7.corp"}}
    scripts = [refusing(status, words) for status in (500, 429, 401, 302, 503)]
    for script in scripts:
        async with stage(script) as on:
            answer = await on.ask()
            assert answer.status >= 429
            assert b"db-7" not in answer.body
            assert "db-7" not in json.dumps(on.served.log())


PAST: list[tuple[bytes, int, str]] = [
    (json_answer({}, 500), 502, "upstream_error"),
    (json_answer({}, 429, {"retry-after": "120"}), 429, "upstream_rate_limited"),
    (json_answer({}, 503, {"retry-after": "120"}), 503, "upstream_error"),
    (json_answer({}, 529), 503, "upstream_error"),
    (json_answer({}, 504), 504, "upstream_timeout"),
    (json_answer({}, 401), 502, "upstream_auth"),
    (json_answer({}, 404), 404, ""),
    (json_answer({}, 400), 400, ""),
    (json_answer(b"<html>"), 502, "upstream_error"),
]


@pytest.mark.parametrize("policies", [[], ["breaker"], ["breaker", "headroom", "lowest_cost"]], ids=len)
async def test_the_only_deployment_is_never_refused_for_its_past_and_its_error_is_passed_on(
    policies: list[str],
) -> None:
    exhausted = {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "60s",
    }
    good = answer_bytes().replace(b"\r\n", b"\r\n" + "".join(f"{n}: {v}\r\n" for n, v in exhausted.items()).encode(), 1)
    answers = [answer for answer, _, _ in PAST] * 3
    async with stage(answering(*answers, good), route_fields={"policies": policies}) as on:
        for said, status, code in PAST * 3:
            answer = await on.ask()
            assert (answer.status, answer.error["code"] or "") == (status, code)
            assert "no_deployment" not in answer.error["message"]
            assert answer.headers.get("retry-after") == ("120" if b"retry-after" in said else None)
        for _ in range(20):
            assert (await on.ask()).status == 200
        assert on.asked() == [len(answers) + 20]


async def test_the_only_deployment_is_asked_again_after_its_connections_broke() -> None:
    async with stage(resetting, route_fields={"policies": ["breaker"]}) as on:
        for _ in range(12):
            answer = await on.ask()
            assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        assert on.asked() == [12]
