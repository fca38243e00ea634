"""Metrics from outside: the promised names are there, and nothing that a stranger sends makes a new series."""

import asyncio
import json
import random
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sandbox.run import Sandbox
from tests.harness import Caller, Served, ask, caller, chat, config, request, route, serving

NAMES = {
    "gen_ai_client_operation_duration_seconds": {"gen_ai_operation_name", "gen_ai_request_model"},
    "gen_ai_server_time_to_first_token_seconds": {"gen_ai_provider_name", "deployment", "gen_ai_request_model"},
    "gen_ai_client_token_usage": {"gen_ai_token_type", "gen_ai_provider_name", "deployment", "gen_ai_request_model"},
    "arriero_requests": {"route", "key", "status"},
    "arriero_attempts": {"route", "deployment", "outcome"},
    "arriero_cost_usd": {"route", "deployment"},
    "arriero_usage_estimated": {"route", "deployment"},
    "arriero_policy_removed": {"route", "policy", "deployment"},
    "arriero_upstream_auth_failures": {"deployment"},
    "arriero_retries_refused": set(),
    "arriero_in_flight_calls": set(),
    "arriero_draining": set(),
    "arriero_deployment_in_flight": {"route", "deployment"},
    "arriero_deployment_failures": {"route", "deployment"},
    "arriero_deployment_cooling_seconds": {"route", "deployment"},
    "arriero_deployment_requests_left_ratio": {"route", "deployment"},
    "arriero_deployment_tokens_left_ratio": {"route", "deployment"},
    "arriero_deployment_queue": {"route", "deployment"},
    "arriero_deployment_kv_used_ratio": {"route", "deployment"},
}
BOUNDS = {"le", "quantile"}


async def scrape(served: Served) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What the admin port says: every series by the name of its family."""

    def read() -> str:
        with urllib.request.urlopen(f"{served.admin_url}/metrics", timeout=30) as response:
            assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
            return str(response.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    return {
        family.name: {(("", s.name), *sorted(s.labels.items())): s.value for s in family.samples} for family in families
    }


def count(scraped: dict[str, dict[tuple[tuple[str, str], ...], float]]) -> int:
    return sum(len(series) for series in scraped.values())


async def test_every_promised_name_is_there_with_its_labels_and_counts() -> None:
    async with Sandbox(port=0, clouds=["vllm"]) as box, serving(box.config_text()) as served:
        answer = await ask(served, chat("llama-3.1-8b", max_tokens=7), x_request_id="a")
        assert answer.status == 200
        stream = await ask(served, chat("llama-3.1-8b", max_tokens=5, stream=True))
        assert stream.done
        await served.at_rest()
        found = await scrape(served)
    for name, labels in NAMES.items():
        assert name in found, name
        for series in found[name]:
            assert {label for label, _ in series[1:]} - BOUNDS == labels, name
    tokens = [(dict(series), value) for series, value in found["gen_ai_client_token_usage"].items()]
    for kind, total in (("output", 12), ("input", 2 * answer.json()["usage"]["prompt_tokens"])):
        assert total == sum(
            value
            for labels, value in tokens
            if labels[""] == "gen_ai_client_token_usage_sum" and labels["gen_ai_token_type"] == kind
        )
    requests = {tuple(dict(series).values()): value for series, value in found["arriero_requests"].items()}
    assert requests == {("arriero_requests_total", "anonymous", "llama-3.1-8b", "200"): 2}


KEYS = [{"name": "team", "key": "sk-team"}]
EACH = 2500


def junk(dice: random.Random) -> bytes:
    """One request with something that was never seen: a model, a key, a path, a header's value."""
    word = f"x{dice.getrandbits(64):x}"
    kind = dice.randrange(4)
    if kind == 0:
        return request(chat(word), authorization="Bearer sk-team", x_request_id=word)
    if kind == 1:
        return request(chat("r"), authorization=f"Bearer {word}", x_arriero_session=word)
    if kind == 2:
        return request(chat("r"), f"/v1/{word}", authorization="Bearer sk-team")
    return request(chat("r", **{word: 1}), authorization="Bearer sk-team", x_arriero_labels=f"{word}=={word}")


async def answers(client: Caller, requests: list[bytes]) -> list[int]:
    """Pipelined, and every answer read whole."""
    await client.send(b"".join(requests))
    return [(await client.answer()).status for _ in requests]


@pytest.mark.timeout(200)
async def test_ten_thousand_strange_requests_make_no_new_series() -> None:
    document = {**config({"r": route("a")}, a="http://127.0.0.1:1/v1"), "keys": KEYS}
    dice = random.Random(7)
    async with serving(document) as served, caller(served) as client:
        statuses = set(await answers(client, [junk(dice) for _ in range(40)]))
        assert statuses == {400, 401, 404}
        before = await scrape(served)
        seen: set[int] = set()
        for _ in range(4 * EACH // 100):
            seen |= set(await answers(client, [junk(dice) for _ in range(100)]))
        after = await scrape(served)
    assert seen == statuses
    assert count(after) - count(before) <= 5
    total = sum(value for series, value in after["arriero_requests"].items())
    assert total > 3 * EACH * 0.9  # paths that are not served are no calls
    assert all("x" not in value[:1] for family in after.values() for series in family for _, value in series[1:])


async def test_what_a_cloud_says_makes_no_new_series() -> None:
    async with Sandbox(port=0, clouds=["openai"]) as box:
        account = {"type": "openai", "url": box.urls["openai"], "api_key": "sk-sandbox"}
        document = {"providers": {"a": account}, "routes": {"r": route({"account": "a", "model": "gpt-4o"})}}
        async with serving(document) as served:
            counts = set()
            for n in range(10):
                body = {"error": {"message": f"m{n}", "type": f"t{n}", "code": f"c{n}", "param": f"p{n}"}}
                box.set("openai", fault={"kind": "status", "status": 400, "body": body})
                answer = await ask(served, chat("r"))
                assert answer.error["code"] == f"c{n}"
                counts.add(count(await scrape(served)))
    assert len(counts) == 1


async def test_the_public_port_shows_no_metrics() -> None:
    async with serving(config({"r": route("a")}, a="http://127.0.0.1:1/v1")) as served, caller(served) as client:
        await client.send(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await client.answer()
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "not_found"
