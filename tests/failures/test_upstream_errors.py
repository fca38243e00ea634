"""Failure catalogue A: the upstream answers with an error, or with something that is not an answer."""

import email.utils
import json
import random
from typing import Any

import pytest

from tests.failures.stage import answering, refusing, stage
from tests.harness import Clock, answer_bytes, chat, json_answer

BREAKER = {"policies": ["breaker"]}
WALL = 1_800_000_000.0


async def test_a1_a_429_fails_over_and_the_cloud_is_left_alone_as_long_as_it_asked() -> None:
    clock = Clock()
    async with stage(
        refusing(429, retry_after="3"), answering(), clock=clock, wall=lambda: WALL, route_fields=BREAKER
    ) as on:
        assert (await on.ask()).status == 200
        assert on.asked() == [1, 1]
        assert on.outcomes() == ["rate_limited", "ok"]
        for _ in range(5):
            clock.advance(0.59)
            assert (await on.ask()).status == 200
        assert on.asked() == [1, 6]
        clock.advance(0.1)
        assert (await on.ask()).status == 200
        assert on.asked() == [2, 7]


async def test_a1_a_429_from_the_only_cloud_is_a_429_with_its_retry_after_and_no_second_try() -> None:
    async with stage(refusing(429, retry_after="3")) as on:
        answer = await on.ask()
        assert (answer.status, answer.headers["retry-after"]) == (429, "3")
        assert (answer.error["code"], answer.error["type"]) == ("upstream_rate_limited", "rate_limit_error")
        assert on.asked() == [1]


async def test_a1_when_every_cloud_says_429_the_caller_hears_the_shortest_wait() -> None:
    async with stage(refusing(429, retry_after="30"), refusing(429, retry_after="7")) as on:
        answer = await on.ask()
        assert (answer.status, answer.headers["retry-after"]) == (429, "7")


HINTS: list[tuple[dict[str, str], float | None]] = [
    ({"retry-after": "3"}, 3.0),
    ({"retry-after": "2.5"}, 2.5),
    ({"retry-after": email.utils.formatdate(WALL + 20, usegmt=True)}, 20.0),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
    ({"x-ms-retry-after-ms": "2500"}, 2.5),
    ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}, 62.5),
    ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "430ms"}, 0.43),
    ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "200s"}, None),
    ({"retry-after": "1e9"}, 300.0),
    ({"retry-after": "1000000000"}, 300.0),
    ({"retry-after": email.utils.formatdate(WALL + 86400, usegmt=True)}, 300.0),
    ({"retry-after": email.utils.formatdate(WALL - 86400, usegmt=True)}, None),
    ({"retry-after": "-5"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, 300.0),
    ({"retry-after": "soon"}, None),
    ({"retry-after": ""}, None),
    ({"retry-after-ms": "-1"}, None),
    ({}, None),
]


async def test_a2_every_form_of_a_hint_is_honoured_up_to_300_s_and_garbage_is_as_if_unsaid() -> None:
    clock = Clock()
    answers = [json_answer({"error": {"message": "slow down"}}, 429, headers) for headers, _ in HINTS]
    async with stage(answering(*answers), clock=clock, wall=lambda: WALL) as on:
        for headers, seconds in HINTS:
            clock.advance(10_000)
            on.facts().succeeded(clock.now)  # the back-off starts anew
            answer = await on.ask()
            assert answer.status == 429
            pause = on.facts().cooling_until - clock.now
            if seconds is None:
                assert 0.5 <= pause <= 1.0, headers
                assert answer.headers["retry-after"] == "1", headers
            else:
                assert pause == pytest.approx(seconds), headers
                assert int(answer.headers["retry-after"]) - seconds < 1, headers
                assert int(answer.headers["retry-after"]) >= seconds, headers


async def test_a3_a_429_without_a_hint_cools_ever_longer_with_jitter_and_one_real_call_probes() -> None:
    clock = Clock()
    refused = json_answer({"error": {"message": "slow down"}}, 429)
    script = answering(*[refused] * 9, answer_bytes())
    async with stage(script, answering(), clock=clock, route_fields=BREAKER) as on:
        shares = []
        for nth in range(1, 10):
            lasted_s = clock.now - on.facts().failing_since if nth > 1 else 0.0
            assert (await on.ask()).status == 200
            pause_s = on.facts().cooling_until - clock.now
            shares.append(pause_s / min(2.0 ** (nth - 1), max(1.0, lasted_s)))
            assert (await on.ask()).status == 200
            assert on.asked()[0] == nth  # left alone while it cools
            clock.advance(pause_s + 300.0)  # the breaker's own pause is over too
        assert all(0.5 <= share <= 1.0 for share in shares)
        assert len(set(shares)) == len(shares)
        assert pause_s > 30.0
        assert (await on.ask()).headers["x-arriero-deployment"] == "a"
        assert on.facts().failures == 0


async def test_a4_a_cloud_that_says_429_at_once_does_not_draw_the_traffic_of_latency_routing() -> None:
    clock = Clock()

    policies = ["breaker", "lowest_latency"]
    async with stage(
        refusing(429), *(answering() for _ in range(4)), clock=clock, route_fields={"policies": policies}
    ) as on:
        for _ in range(200):
            assert (await on.ask()).status == 200
            clock.advance(0.01)
        assert on.asked()[0] <= 4  # 2 % of 200
        assert on.facts().plain.ttft is None  # nothing was learned from a failure


async def test_a5_a_500_fails_over_with_one_try_a_cloud_and_three_in_all() -> None:
    async with stage(refusing(500), answering()) as on:
        answer = await on.ask()
        assert (answer.status, answer.headers["x-arriero-attempts"]) == (200, "2")
        assert answer.headers["x-arriero-deployment"] == "b"
        assert on.asked() == [1, 1]
    async with stage(*(refusing(500) for _ in range(5))) as on:
        answer = await on.ask()
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        assert answer.headers["x-arriero-attempts"] == "3"
        assert on.asked() == [1, 1, 1, 0, 0]


A6 = {500: 502, 501: 502, 502: 502, 503: 503, 504: 504, 520: 502, 522: 504, 524: 504, 529: 503}


@pytest.mark.parametrize("stream", [False, True])
async def test_a6_every_5xx_fails_over_and_alone_becomes_502_503_or_504(stream: bool) -> None:
    body = chat(stream=stream)
    answers = [json_answer({"detail": "x"}, status) for status in A6]
    async with stage(answering(*answers), answering(answer_bytes())) as on:
        for _ in A6:
            if not stream:
                assert (await on.ask(body)).status == 200
        assert on.asked() == ([0, 0] if stream else [len(A6), len(A6)])
    async with stage(answering(*answers)) as on:
        for status, outward in A6.items():
            answer = await on.ask(body)
            assert (status, answer.status) == (status, outward)
            assert answer.error["code"] == ("upstream_timeout" if outward == 504 else "upstream_error")
        assert on.asked() == [len(A6)]


async def test_a6_a_503_with_retry_after_hands_it_to_the_caller() -> None:
    async with stage(refusing(503, retry_after="11")) as on:
        answer = await on.ask()
        assert (answer.status, answer.headers["retry-after"]) == (503, "11")


async def test_a6_failures_of_different_kinds_are_a_502() -> None:
    async with stage(refusing(429), refusing(503), refusing(504)) as on:
        answer = await on.ask()
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")
        assert "retry-after" not in answer.headers


A7 = [400, 404, 405, 413, 415, 422]


@pytest.mark.parametrize("stream", [False, True])
async def test_a7_the_callers_own_fault_is_passed_on_as_it_is_and_never_tried_elsewhere(stream: bool) -> None:
    said = {"message": "bad thing", "type": "invalid_request_error", "param": "messages", "code": "bad_thing"}
    answers = [json_answer({"error": said}, status) for status in A7]
    async with stage(answering(*answers), answering()) as on:
        for status in A7:
            answer = await on.ask(chat(stream=stream))
            assert (answer.status, answer.error) == (status, said)
        assert on.asked() == [len(A7), 0]
        assert on.facts().failures == 0  # it says nothing about the cloud


SHAPES: list[tuple[Any, str, str | None]] = [
    ({"error": {"message": "m", "type": "t", "param": None, "code": 400}}, "m", "400"),  # vLLM
    ({"object": "error", "message": "m", "type": "BadRequestError", "param": None, "code": 400}, "m", "400"),
    ({"error": "m"}, "m", None),
    ({"message": "m"}, "m", None),
    ({"detail": "m"}, "m", None),  # FastAPI
    ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], "m", "400"),  # Google
    ({"error_code": "BAD_REQUEST", "message": "m"}, "m", "BAD_REQUEST"),  # Databricks
    (b"<html>not json</html>", "The upstream refused the request with status 400.", None),
    (b"", "The upstream refused the request with status 400.", None),
    (b"[[[[", "The upstream refused the request with status 400.", None),
    (b'{"error":{"message":"\xff"}}', "The upstream refused the request with status 400.", None),
    (b"null", "The upstream refused the request with status 400.", None),
    (b"[]", "The upstream refused the request with status 400.", None),
    ({"error": {"message": ["m"], "code": {"a": 1}}}, "The upstream refused the request with status 400.", None),
]


async def test_a7_a_refusal_in_any_clouds_shape_reaches_the_caller_in_openais() -> None:
    async with stage(answering(*(json_answer(body, 400) for body, _, _ in SHAPES))) as on:
        for _, message, code in SHAPES:
            answer = await on.ask()
            assert answer.status == 400
            assert (answer.error["message"], answer.error["code"]) == (message, code)


OVERFLOW = {"error": {"message": "This model's maximum context length is 8 tokens.", "code": "context_length_exceeded"}}


async def test_a7_a_context_that_is_too_long_goes_to_larger_windows_only() -> None:
    deployments = [
        {"account": "a", "model": "m", "context_tokens": 8192},
        {"account": "b", "model": "m", "context_tokens": 8192},
        {"account": "c", "model": "m", "context_tokens": 131072},
    ]
    scripts = refusing(400, OVERFLOW), answering(), answering()
    async with stage(*scripts, route_fields={"deployments": deployments}) as on:
        answer = await on.ask()
        assert (answer.status, answer.headers["x-arriero-deployment"]) == (200, "c")
        assert on.asked() == [1, 0, 1]
    async with stage(refusing(400, OVERFLOW), answering()) as on:
        answer = await on.ask()
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert on.asked() == [1, 0]


GONE = [
    (404, {"error": {"message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}}),
    (400, {"error": {"message": "The model `m` has been decommissioned", "code": "model_decommissioned"}}),
    (404, {"error": {"message": "x", "code": "model_not_found"}}),
    (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}),
]


async def test_a7_weights_that_are_gone_at_a_cloud_are_our_fault_and_fail_over() -> None:
    gone = [json_answer(body, status) for status, body in GONE]
    async with stage(answering(*gone), answering()) as on:
        for _ in GONE:
            assert (await on.ask()).status == 200
        assert on.asked() == [4, 4]
    async with stage(answering(*gone)) as on:
        for _ in GONE:
            answer = await on.ask()
            assert (answer.status, answer.error["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a8_a_refused_credential_of_ours_fails_over_or_is_a_502_and_never_a_401(status: int) -> None:
    body = {"error": {"message": "Incorrect API key provided: key-of-a", "code": "invalid_api_key"}}
    async with stage(refusing(status, body), answering()) as on:
        assert (await on.ask()).status == 200
        assert on.facts().account.cooling_until > on.served.gateway.fleet.clock() + 10
        metrics = on.served.metrics()
        assert 'arriero_upstream_auth_failures_total{deployment="a"} 1.0' in metrics
    async with stage(refusing(status, body), refusing(status, body)) as on:
        answer = await on.ask()
        assert (answer.status, answer.error["code"]) == (502, "upstream_auth")
        assert b"key-of-a" not in answer.body
        assert b"key-of-a" not in json.dumps(on.served.log()).encode()


def completion(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | fields


A9: list[tuple[Any, str]] = [
    ({"error": {"message": "boom", "type": "server_error"}}, "server_error"),
    ({"error": {"message": "boom", "code": 429}}, "rate_limited"),
    ({"error": "boom"}, "server_error"),
    (completion(error={"message": "boom"}), "server_error"),
    (completion(choices=[]), "empty"),
    (completion(choices=None), "empty"),
    ({"id": "1"}, "empty"),
    ({}, "empty"),
    (b"", "empty"),
    (b"  \n", "empty"),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_a9_a_200_that_holds_an_error_or_nothing_is_a_failure(stream: bool) -> None:
    answers = [json_answer(body) for body, _ in A9]
    async with stage(answering(*answers), answering(*answers)) as on:
        for _, outcome in A9:
            answer = await on.ask(chat(stream=stream))
            assert answer.status == (429 if outcome == "rate_limited" else 502)
            assert b"boom" not in answer.body
            assert on.outcomes() == [outcome, outcome]
        assert on.asked() == [len(A9), len(A9)]


async def test_a9_an_answer_without_usage_is_delivered_estimated_and_counted() -> None:
    async with stage(answering(answer_bytes("x" * 400, usage=False))) as on:
        answer = await on.ask()
        assert (answer.status, "usage" in answer.json()) == (200, False)
        kept = on.served.decisions()[0]
        assert kept.attempts[0].cost_estimated
        assert on.served.calls()[0]["output_tokens"] > 100
        assert 'arriero_usage_estimated_total{deployment="a",route="r"} 1.0' in on.served.metrics()


@pytest.mark.parametrize("stream", [False, True])
async def test_a10_a_login_page_fails_over_and_is_never_shown(stream: bool) -> None:
    pages = [
        json_answer(b"<html>Sign in to corp-proxy-7</html>", 200, {"content-type": "text/html; charset=utf-8"}),
        json_answer(b"<html>Sign in to corp-proxy-7</html>"),
        json_answer(b"Sign in to corp-proxy-7", 200, {"content-type": "text/plain"}),
    ]
    async with stage(answering(*pages), answering(*pages)) as on:
        for _ in pages:
            answer = await on.ask(chat(stream=stream))
            assert answer.status == 502
            assert on.outcomes() == ["not_json", "not_json"]
            assert b"corp-proxy" not in answer.body
        assert on.asked() == [3, 3]


ODD: list[Any] = [None, True, 0, -1, 2**70, 0.5, "", "x", "\u2028é", [], [None], {}, {"a": [{}]}, [[1]]]
GOOD = completion(usage={"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}})
FIELDS = [*GOOD, "message", "delta", "text", "finish_reason", "index", "prompt_tokens", "error", "content"]


def drifted(chance: random.Random) -> bytes:
    """A completion of which some values became something else, or whose bytes did."""
    body = json.loads(json.dumps(GOOD))
    places = [body, body["choices"][0], body["choices"][0]["message"], body["usage"]]
    for _ in range(chance.randint(1, 3)):
        chance.choice(places)[chance.choice(FIELDS)] = chance.choice(ODD)
    raw = json.dumps(body).encode()
    if chance.random() < 0.5:
        at = chance.randrange(len(raw))
        raw = raw[:at] + chance.randbytes(chance.randint(0, 2)) + raw[at + chance.randint(0, 2) :]
    return raw


@pytest.mark.parametrize("stream", [False, True])
async def test_a11_a_schema_that_drifts_is_passed_through_or_failed_over_and_never_our_exception(stream: bool) -> None:
    chance = random.Random(11)
    bodies = [drifted(chance) for _ in range(400)]
    if stream:
        events = [b"data: " + body.replace(b'"message"', b'"delta"').replace(b"\n", b" ") + b"\n\n" for body in bodies]
        answers = [json_answer(event, 200, {"content-type": "text/event-stream"}) for event in events]
    else:
        answers = [json_answer(body) for body in bodies]
    async with stage(answering(*answers)) as on:
        for body in bodies:
            answer = await on.ask(chat(stream=stream))
            assert answer.status != 500, body
            if answer.status == 200 and not stream:
                sent, got = json.loads(body), answer.json()
                assert got.pop("model") == "r"
                sent.pop("model", None)
                assert json.dumps(got) == json.dumps(sent)


FILTER = {"error": {"message": "The response was filtered", "type": None, "param": "prompt", "code": "content_filter"}}


async def test_a12_a_content_filter_is_the_callers_and_never_failed_over() -> None:
    async with stage(refusing(400, FILTER), answering()) as on:
        answer = await on.ask()
        assert (answer.status, answer.error["code"]) == (400, "content_filter")
        assert on.asked() == [1, 0]


async def test_a13_a_redirect_is_never_followed_and_the_credential_goes_nowhere() -> None:
    async with stage(answering(), answering()) as inside:
        target = inside.clouds[0]
        for status in (301, 302, 303, 307, 308):
            async with stage(refusing(status, b"", location=f"{target.url}/x"), answering()) as on:
                assert (await on.ask()).status == 200
                assert on.asked() == [1, 1]
                assert on.outcomes() == ["redirect", "ok"]
        assert target.connections == 0
