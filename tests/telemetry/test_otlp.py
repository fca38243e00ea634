"""Spans and metrics as a collector receives them from a gateway before scripted clouds."""

import asyncio
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config import loading
from gateway.errors import ConfigError
from sandbox import azure, bedrock, databricks, oci, vertex
from tests import process
from tests.harness import (
    STREAM_HEAD,
    Connection,
    answer_bytes,
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
from tests.needs import need
from tests.telemetry.collector import attributes, collecting


def installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.proto") is not None
    except ModuleNotFoundError:
        return False


need("opentelemetry-proto", installed())

DONE = b"data: [DONE]\n\n"
PRICE = {"in": 1, "out": 2}


async def good(connection: Connection) -> None:
    while data := await connection.request():
        if b'"stream":true' not in data:
            await connection.send(answer_bytes())
            continue
        events = delta("one ") + delta("two") + delta(None, "stop")
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\n'
        await connection.send(STREAM_HEAD + chunk(events) + chunk(usage + DONE) + chunk(b""))


async def broken(connection: Connection) -> None:
    while await connection.request():
        await connection.send(json_answer({"error": {"message": "secret words"}}, 500))


async def cut(connection: Connection) -> None:
    await connection.request()
    await connection.send(STREAM_HEAD + chunk(delta("one ")))
    connection.close()


def document(telemetry: dict[str, Any], *names: str, **accounts: Any) -> dict[str, Any]:
    deployments = [{"account": name, "model": f"model-of-{name}", "price": PRICE} for name in names]
    return config({"r": {"deployments": deployments, "policies": []}}, **accounts) | {"telemetry": telemetry}


async def test_a_call_is_a_span_and_each_attempt_one_below_it() -> None:
    before_ns = time.time_ns()
    with collecting() as collector:
        async with upstream(broken) as a, upstream(good) as b:
            words = document({"otlp": collector.url, "sample": 1.0}, "a", "b", a=a.url, b=b.url)
            async with serving(words) as served:
                answer = await ask(served, chat(max_tokens=7))
                assert answer.status == 200
        call, (first, second) = collector.trace()
    assert call.name == "chat r"
    assert [span.name for span in (first, second)] == ["chat model-of-a", "chat model-of-b"]
    said = attributes(call)
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.request.model"] == "r"
    assert said["gen_ai.request.max_tokens"] == 7
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (3, 1)
    assert said["arriero.cost_usd"] == pytest.approx(5e-6)
    assert said["http.response.status_code"] == 200
    assert (said["arriero.attempts"], said["arriero.deployment"]) == (2, "b")
    assert said["arriero.decision_id"] == answer.headers["x-arriero-decision"]
    assert said["arriero.request_id"] == answer.headers["x-request-id"]
    assert call.status.code == 0
    failed, won = attributes(first), attributes(second)
    assert (failed["arriero.outcome"], failed["error.type"], first.status.code) == ("server_error", "server_error", 2)
    assert failed["http.response.status_code"] == 500
    assert "gen_ai.usage.input_tokens" not in failed
    assert (won["arriero.outcome"], won["gen_ai.provider.name"], won["arriero.retry"]) == ("ok", "openai", 1)
    assert won["gen_ai.usage.output_tokens"] == 1
    assert before_ns < call.start_time_unix_nano <= first.start_time_unix_nano < first.end_time_unix_nano
    assert second.end_time_unix_nano <= call.end_time_unix_nano < time.time_ns()
    assert collector.resources[0]["service.name"] == "arriero"
    assert "secret words" not in str(collector.spans)


async def test_a_stream_tells_when_its_first_token_came() -> None:
    with collecting() as collector:
        async with upstream(good) as a, serving(document({"otlp": collector.url, "sample": 1}, "a", a=a.url)) as served:
            assert (await ask(served, chat(stream=True))).done
        call, (attempt,) = collector.trace()
    (event,) = attempt.events
    assert event.name == "arriero.first_token"
    assert attempt.start_time_unix_nano < event.time_unix_nano <= attempt.end_time_unix_nano
    said = attributes(attempt)
    taken_s = (event.time_unix_nano - attempt.start_time_unix_nano) / 1e9
    assert said["arriero.time_to_first_token_s"] == pytest.approx(taken_s, abs=1e-5)
    assert (said["arriero.stream"], attributes(call)["gen_ai.usage.output_tokens"]) == (True, 2)


async def test_a_stream_that_broke_is_an_error_in_both_spans() -> None:
    with collecting() as collector:
        async with upstream(cut) as a, serving(document({"otlp": collector.url, "sample": 1}, "a", a=a.url)) as served:
            assert (await ask(served, chat(stream=True))).fault is not None
        call, (attempt,) = collector.trace()
    assert (attributes(call)["error.type"], call.status.code) == ("stream_incomplete", 2)
    assert (attempt.status.code, attributes(attempt)["error.type"]) == (2, attributes(attempt)["arriero.outcome"])


async def test_a_client_that_left_is_nobodys_error() -> None:
    gone = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await connection.request()
        await connection.closed()
        gone.set()

    with collecting() as collector:
        async with upstream(slow) as a, serving(document({"otlp": collector.url, "sample": 1}, "a", a=a.url)) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(request(chat()))
            await a.asked.wait()
            writer.close()
            await gone.wait()
            await served.at_rest()
        call, (attempt,) = collector.trace()
    assert attributes(call)["http.response.status_code"] == 499
    assert (attributes(attempt)["arriero.outcome"], attempt.status.code, call.status.code) == ("client_gone", 0, 0)


async def test_the_callers_context_goes_on_to_own_servers_and_stops_before_clouds() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with collecting() as collector:
        async with upstream(broken) as a, upstream(good) as b:
            words = document({"otlp": collector.url, "sample": 0}, "a", "b", a=a.url, b=b.url)
            words["providers"]["a"]["type"] = "groq"
            async with serving(words) as served:
                await ask(served, traceparent=parent, tracestate="vendor=x")
        call, (_, second) = collector.trace()
    assert call.trace_id.hex() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert call.parent_span_id.hex() == "00f067aa0ba902b7"
    assert call.trace_state == second.trace_state == "vendor=x"
    assert b"trace" not in a.requests[0]
    told = f"traceparent: 00-{call.trace_id.hex()}-{second.span_id.hex()}-01\r\ntracestate: vendor=x\r\n"
    assert told.encode() in b.requests[0]


@pytest.mark.parametrize("cloud", [azure, bedrock, databricks, oci, vertex], ids=lambda cloud: cloud.__name__)
async def test_no_cloud_of_others_hears_of_the_trace(cloud: Any) -> None:
    """Those that sign their headers above all: what is not sent cannot be signed wrongly."""
    async with upstream(broken) as a:
        account = cloud.CLOUD.account(a.url.removesuffix("/v1"))
        words = document({"otlp": "http://127.0.0.1:9", "sample": 1}, "a", a=account)
        async with serving(words) as served:
            parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            await ask(served, traceparent=parent, tracestate="vendor=x", baggage="secret=y")
    sent = b"".join(a.requests).lower()
    assert b"model-of-a" in sent
    assert not [word for word in (b"trace", b"vendor=x", b"baggage", b"4bf92f35") if word in sent]


async def test_what_is_not_sampled_is_not_sent_but_a_callers_context_goes_on() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    with collecting() as collector:
        async with upstream(good) as a, serving(document({"otlp": collector.url, "sample": 0}, "a", a=a.url)) as served:
            await ask(served)
            await ask(served, traceparent=parent)
        assert collector.spans == []
    assert b"traceparent" not in a.requests[0]
    assert b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-" in a.requests[1]
    assert b"-00\r\n" in a.requests[1]


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_prompt_is_recorded_only_where_its_route_says_so(recorded: bool) -> None:
    with collecting() as collector:
        async with upstream(good) as a:
            words = document({"otlp": collector.url, "sample": 1}, "a", a=a.url)
            words["routes"]["r"] |= {"record_prompts": True} if recorded else {}
            async with serving(words) as served:
                await ask(served)
        call, attempts = collector.trace()
    assert ("Hello" in str(collector.spans)) is recorded
    assert "Hello" not in str(attempts)
    if recorded:
        assert json.loads(attributes(call)["gen_ai.input.messages"]) == [{"role": "user", "content": "Hello"}]


async def test_headers_of_the_config_go_with_every_post() -> None:
    with collecting() as collector:
        async with upstream(good) as a:
            telemetry = {"otlp": collector.url, "sample": 1, "headers": {"x-tenant": "llamas"}}
            async with serving(document(telemetry, "a", a=a.url)) as served:
                await ask(served)
        assert collector.headers
        assert all(found["x-tenant"] == "llamas" for found in collector.headers)


async def test_metrics_are_those_that_prometheus_would_read() -> None:
    with collecting() as collector:
        async with upstream(good) as a:
            telemetry = {"otlp": collector.url, "sample": 0, "metrics_every_s": 0.05}
            async with serving(document(telemetry, "a", a=a.url)) as served:
                await ask(served, chat(stream=True))

                def counted() -> bool:
                    found = collector.metrics.get("arriero_requests")
                    return found is not None and bool(found.sum.data_points)

                await eventually(counted, "no metric came")
                (point,) = collector.metrics["arriero_requests"].sum.data_points
                assert (point.as_double, attributes(point)["route"]) == (1.0, "r")
                assert collector.metrics["arriero_requests"].sum.is_monotonic
                (spread,) = collector.metrics["gen_ai_server_time_to_first_token_seconds"].histogram.data_points
                assert (spread.count, sum(spread.bucket_counts)) == (1, 1)
                assert len(spread.bucket_counts) == len(spread.explicit_bounds) + 1
                assert collector.metrics["arriero_in_flight_calls"].gauge.data_points[0].as_double == 0


@pytest.mark.parametrize("status", [400, 503])
async def test_a_collector_that_refuses_costs_no_call_and_is_counted(status: int) -> None:
    with collecting() as collector:
        collector.status = status
        async with upstream(good) as a:
            telemetry = {"otlp": collector.url, "sample": 1, "metrics_every_s": 0.05}
            async with serving(document(telemetry, "a", a=a.url)) as served:
                assert (await ask(served)).status == 200
                line = 'arriero_telemetry_exports_total{result="failed",signal="metrics"}'
                await eventually(lambda: line in served.metrics(), "it was not counted")
                await eventually(lambda: "arriero_telemetry_spans_dropped_total 2.0" in served.metrics(), "not counted")
        assert collector.spans == []


async def test_the_real_process_sends_its_last_spans_before_it_goes(tmp_path: Path) -> None:
    with collecting() as collector:
        async with upstream(good) as a:
            file = tmp_path / "arriero.yaml"
            words = json.dumps(document({"otlp": collector.url, "sample": 1}, "a", a=a.url))
            await asyncio.to_thread(file.write_text, words)
            with process.serving("--config", str(file), folder=tmp_path) as running:
                reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rpartition(":")[2]))
                writer.write(request(chat(), connection="close"))
                assert b"200 OK" in await reader.read()
                writer.close()
                assert await asyncio.to_thread(running.stop) == 0
                assert not [line for line in running.lines if "opentelemetry" in line or "Traceback" in line]
        call, attempts = collector.trace()
    assert (call.name, len(attempts)) == ("chat r", 1)


async def test_nobody_home_delays_the_leave_by_no_more_than_it_may(tmp_path: Path) -> None:
    async with upstream(good) as a:
        async with serving(document({"otlp": "http://127.0.0.1:9", "sample": 1}, "a", a=a.url)) as served:
            assert (await ask(served)).status == 200
            began = time.monotonic()
        assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("telemetry", "why"),
    [
        ({}, "'otlp' is missing"),
        ({"otlp": "collector:4317"}, "telemetry.otlp"),
        ({"otlp": "http://c", "sample": 2}, "telemetry.sample"),
        ({"otlp": "http://c", "headers": {"x": "env:NOT_THERE"}}, "NOT_THERE"),
    ],
)
def test_telemetry_that_makes_no_sense_is_refused(telemetry: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Gateway(loading.build(config({"r": route("a")}, a="http://x") | {"telemetry": telemetry}))
    assert why in str(refusal.value)
