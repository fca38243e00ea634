"""Every cloud through the gateway against its sandbox: plain, streamed, refused, its credential refused."""

import json

import openai
import pytest

from gateway.config import loading
from gateway.config.plugins import names
from sandbox.cloud import clouds
from sandbox.run import Sandbox
from tests.harness import ask, chat, serving

HELLO = [{"role": "user", "content": "Tell me of llamas"}]
CLOUDS = sorted(set(clouds()) & set(names("providers")))
BY_KEY = [name for name in CLOUDS if {"token", "api_key"} & set(clouds()[name].demo)]
"""Those who are called with one secret; the signing ones have folders of their own."""


def config(box: Sandbox, cloud: str, weights: str, **fields: object) -> dict[str, object]:
    """The sandbox's own account of that cloud, one route to these weights."""
    import yaml

    found = yaml.safe_load(box.config_text())
    account = {**found["providers"][cloud], **fields}
    deployment = next(d for d in found["routes"][weights]["deployments"] if d["account"] == cloud)
    return {"providers": {cloud: account}, "routes": {weights: {"deployments": [deployment], "policies": []}}}


def weights_of(cloud: str) -> str:
    return next(iter(clouds()[cloud].deployments))


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_plain_call_and_a_stream_say_the_same(cloud: str) -> None:
    weights = weights_of(cloud)
    async with Sandbox(port=0, clouds=[cloud]) as box, serving(config(box, cloud, weights)) as served:
        async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client:
            plain = await client.chat.completions.create(model=weights, messages=HELLO, max_tokens=40)
            stream = await client.chat.completions.create(
                model=weights, messages=HELLO, max_tokens=40, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == plain.choices[0].message.content
        assert {c.model for c in chunks} == {plain.model} == {weights}
        assert plain.usage is not None
        usages = [c.usage for c in chunks if c.usage]
        assert [(u.prompt_tokens, u.completion_tokens) for u in usages[-1:]] == [
            (plain.usage.prompt_tokens, plain.usage.completion_tokens)
        ]
        calls = box.calls()
        assert [call["credential"] for call in calls] == ["ok", "ok"]
        assert [call["ended"] for call in calls] == ["done", "done"]
        assert sum(kept.attempts[0].cost_estimated for kept in served.decisions()[:9]) == 0


@pytest.mark.parametrize("limit", [{}, {"max_tokens": None}, {"max_completion_tokens": 3}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_llama_4_at_vertex_says_something_also_where_no_output_limit_is_named(
    stream: bool, limit: dict[str, int | None]
) -> None:
    async with Sandbox(port=0, clouds=["vertex"]) as box:
        found = config(box, "vertex", weights_of("vertex"))
        model = "meta/llama-4-maverick-17b-128e-instruct-maas"
        found["routes"] = {"r": {"deployments": [{"account": "vertex", "model": model}], "policies": []}}
        async with serving(found) as served:
            answer = await ask(served, chat(stream=stream, **limit))
            said = "".join(answer.deltas) if stream else answer.json()["choices"][0]["message"]["content"]
            assert said
            sent = json.loads(box.calls()[0]["body"])
            assert sent.get("max_tokens") == (None if "max_completion_tokens" in limit else 8192)
            assert sent.get("max_completion_tokens") == limit.get("max_completion_tokens")


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_usage_that_was_not_asked_for_is_not_shown(cloud: str) -> None:
    weights = weights_of(cloud)
    async with Sandbox(port=0, clouds=[cloud]) as box, serving(config(box, cloud, weights)) as served:
        async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client:
            stream = await client.chat.completions.create(model=weights, messages=HELLO, max_tokens=5, stream=True)
            chunks = [chunk async for chunk in stream]
        assert not [c for c in chunks if c.usage or not c.choices]
        (call,) = served.calls()
        assert call["output_tokens"] == 5
        assert not served.decisions()[0].attempts[0].cost_estimated


@pytest.mark.parametrize("cloud", BY_KEY)
async def test_a_refused_credential_is_our_fault_and_never_shown(cloud: str) -> None:
    weights = weights_of(cloud)
    async with Sandbox(port=0, clouds=[cloud]) as box:
        good = config(box, cloud, weights)
        account = good["providers"][cloud]  # type: ignore[index]
        secret = "token" if "token" in account else "api_key"
        async with serving(config(box, cloud, weights, **{secret: "wrong-secret-1234"})) as served:
            async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client:
                with pytest.raises(openai.InternalServerError) as refused:
                    await client.chat.completions.create(model=weights, messages=HELLO)
            assert refused.value.status_code == 502
            assert refused.value.code == "upstream_auth"
            assert "wrong-secret-1234" not in str(refused.value) + str(served.log())
            name = next(iter(served.gateway.fleet.routes.values())).lanes
            assert f'arriero_upstream_auth_failures_total{{deployment="{next(iter(name))}"}} 1.0' in served.metrics()


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_an_unknown_model_at_the_cloud_is_not_the_callers_fault(cloud: str) -> None:
    weights = weights_of(cloud)
    async with Sandbox(port=0, clouds=[cloud]) as box:
        wrong = config(box, cloud, weights)
        wrong["routes"][weights]["deployments"][0]["model"] = "gone-llama"  # type: ignore[index]
        async with serving(wrong) as served:
            async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client:
                with pytest.raises(openai.InternalServerError) as refused:
                    await client.chat.completions.create(model=weights, messages=HELLO)
            assert refused.value.status_code == 502, refused.value
            (attempt,) = served.decisions()[0].attempts
            assert attempt.outcome == "model_gone", (attempt.status, attempt.message)


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_too_many_requests_keep_their_retry_after(cloud: str) -> None:
    weights = weights_of(cloud)
    async with Sandbox(port=0, clouds=[cloud]) as box, serving(config(box, cloud, weights)) as served:
        box.set(
            cloud, fault={"kind": "status", "status": 429, "headers": {"retry-after": "7", "retry-after-ms": "7000"}}
        )
        async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as refused:
                await client.chat.completions.create(model=weights, messages=HELLO)
        assert refused.value.response.headers["retry-after"] == "7"


FORMS = {
    "models": "{origin}/models",
    "openai_v1": "{origin}/openai/v1",
    "deployments": "{origin}",
    "serverless": "{origin}",
}


BOTH = [(form, auth) for form in FORMS for auth in ("api-key", "bearer")]


@pytest.mark.parametrize(("form", "auth"), [pair for pair in BOTH if pair != ("serverless", "api-key")])
async def test_azure_is_reached_in_all_its_forms_and_by_both_headers(form: str, auth: str) -> None:
    async with Sandbox(port=0, clouds=["azure"]) as box:
        url = FORMS[form].format(origin=box.origins["azure"])
        changed = config(box, "azure", weights_of("azure"), url=url, form=form, auth=auth)
        loading.build(changed)
        async with serving(changed) as served:
            async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client:
                model = next(iter(served.gateway.fleet.routes))
                stream = await client.chat.completions.create(model=model, messages=HELLO, max_tokens=3, stream=True)
                text = "".join([c.choices[0].delta.content or "" async for c in stream])
            assert text
            (call,) = box.calls()
            assert call["credential"] == "ok"
