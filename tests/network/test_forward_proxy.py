"""Accounts behind a forward proxy, through the whole gateway: calls, tokens, refusals; and nothing secret told."""

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gateway.accounts import open_account
from gateway.commands import check
from gateway.config import loading
from gateway.errors import ConfigError
from sandbox.run import Sandbox
from tests.credentials.test_through_the_gateway import CLOUDS, HELLO, MODEL, config, paid_with_tokens, sdk
from tests.forward_proxy import forward_proxy
from tests.harness import ask, chat, route, serving
from tests.transport.test_faults import closed_port

PASSWORD = "proxy-pass-7f3a"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_calls_and_their_tokens_go_the_same_way(
    cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        forward_proxy(f"me:{PASSWORD}") as proxy,
        Sandbox(port=0, clouds=[cloud]) as box,
        paid_with_tokens(box, cloud, tmp_path, monkeypatch) as account,
        serving(config(box, cloud, {**account, "proxy": proxy.url(f"me:{PASSWORD}@")})) as served,
        sdk(served) as client,
    ):
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, stream=True)
        assert "".join([c.choices[0].delta.content or "" for c in [c async for c in stream] if c.choices])
        asked = " ".join(proxy.asked)
        token = {"azure": "CONNECT localhost:", "vertex": "/token", "databricks": "/oidc/v1/token"}[cloud]
        assert token in asked
        assert "/chat/completions" in asked
        assert len(box.calls()) == len([line for line in proxy.asked if not line.startswith("CONNECT")]) + (
            1 if cloud == "azure" else 0  # its token came out of a tunnel
        )
        said = (
            json.dumps(served.log()) + served.metrics() + repr(served.decisions()) + repr(served.gateway.fleet.config)
        )
        assert PASSWORD not in said


def behind(proxy: str, box: Sandbox, second: dict[str, Any]) -> dict[str, Any]:
    first = {"type": "openai", "url": box.urls["openai"], "api_key": "sk-sandbox"}
    return {
        "providers": {"behind": {**first, "proxy": proxy}, "direct": {**first, **second}},
        "routes": {"r": route({"account": "behind", "model": "gpt-4o"}, {"account": "direct", "model": "gpt-4o"})},
    }


async def test_a_proxy_that_refuses_costs_an_attempt_and_not_the_call() -> None:
    async with (
        forward_proxy(f"me:{PASSWORD}") as proxy,
        Sandbox(port=0, clouds=["openai"]) as box,
        serving(behind(proxy.url(f"me:{PASSWORD}-old@"), box, {})) as served,
    ):
        answer = await ask(served, chat("r"))
        assert answer.status == 200
        first, second = served.decisions()[0].attempts
        assert (first.deployment, first.outcome, second.deployment) == ("behind", "proxy", "direct")
        assert f"the proxy localhost:{proxy.port} wants other credentials (407)" in str(first.message)
        said = (
            json.dumps(served.log()) + served.metrics() + repr(served.decisions()) + repr(served.gateway.fleet.config)
        )
        assert PASSWORD not in said
        await served.at_rest()


async def test_a_callers_error_names_the_proxy_that_is_not_there() -> None:
    port = closed_port()
    async with Sandbox(port=0, clouds=["openai"]) as box:
        document = behind(f"http://me:{PASSWORD}@127.0.0.1:{port}", box, {"proxy": f"http://127.0.0.1:{port}"})
        async with serving(document) as served:
            answer = await ask(served, chat("r"))
        assert answer.status == 502
        assert f"through the proxy 127.0.0.1:{port}: cannot connect (connection refused)" in answer.error["message"]
        assert PASSWORD not in answer.body.decode()


async def test_the_environments_proxy_is_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    async with Sandbox(port=0, clouds=["openai"]) as box:
        document = behind("none", box, {})
        document["routes"] = {"r": route({"account": "direct", "model": "gpt-4o"})}
        async with serving(document) as served:
            assert (await ask(served, chat("r"))).status == 200


async def test_the_environments_proxy_leads_to_every_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is on this machine, the host is not: whatever the proxy says of it, it has been asked."""
    async with forward_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url())
        monkeypatch.setenv("NO_PROXY", "direct.invalid")
        account = {"type": "openai", "url": "https://cloud.invalid/v1", "timeouts": {"connect_s": 20}}
        document: dict[str, Any] = {
            "providers": {"a": account, "b": {**account, "url": "https://direct.invalid/v1"}},
            "routes": {"r": route({"account": "a", "model": "m"}, {"account": "b", "model": "m"})},
        }
        async with serving(document) as served:
            await ask(served, chat("r"))
            outcomes = [attempt.outcome for attempt in served.decisions()[0].attempts]
        assert proxy.asked == ["CONNECT cloud.invalid:443 HTTP/1.1"]
        assert outcomes == ["proxy", "dns"]


def test_a_proxy_of_the_environment_that_is_none_is_refused_before_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"socks5://me:{PASSWORD}@p:1080")
    built = loading.parse(
        "providers: {a: {type: groq, api_key: k}}\nroutes: {r: {deployments: [{account: a, model: m}]}}"
    )
    with pytest.raises(ConfigError, match=r"providers.a: HTTPS_PROXY is no proxy: .*'proxy: none'") as refused:
        open_account(built.accounts["a"], "a", float)
    assert PASSWORD not in str(refused.value)


async def test_check_reaches_for_the_proxy_where_there_is_one() -> None:
    port = closed_port()
    account = {"type": "groq", "api_key": "k", "proxy": f"http://127.0.0.1:{port}"}
    built = loading.build({"providers": {"a": account}, "routes": {"llama-3.1-8b": {"deployments": ["a"]}}})
    found = await check.warnings(built, date(2026, 1, 1), reach=True)
    assert f"providers.a: the proxy 127.0.0.1:{port} cannot be reached: Connection refused" in found
