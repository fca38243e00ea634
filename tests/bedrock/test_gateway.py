"""From the OpenAI SDK through the gateway to the box's Bedrock and back, good days and bad."""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import openai
import pytest

from gateway.errors import ConfigError, UpstreamError
from gateway.outcome import MAX_COOL_S
from providers.bedrock import Runtime
from providers.credentials.sigv4 import Keys
from sandbox import _bedrock_auth as auth
from sandbox import _bedrock_tokens as box_tokens
from sandbox.bedrock import _ARN, GUARDED_WORD, GUARDRAIL
from sandbox.run import Sandbox
from tests.bedrock.calls import WEATHER, call, deployment
from tests.harness import Clock, Served, ask, chat, serving

HELLO: list[Any] = [{"role": "user", "content": "Tell me of llamas."}]
BEDROCK = {"account": "bedrock", "model": "us.meta.llama3-1-8b-instruct-v1:0"}
GROQ = {"account": "groq", "model": "llama-3.1-8b-instant"}
VISION = {"account": "bedrock", "model": "us.meta.llama4-scout-17b-instruct-v1:0", "features": ["+vision"]}


class World:
    """A gateway before the box's Bedrock and Groq, with one route in the order of its deployments."""

    def __init__(self, box: Sandbox, served: Served, client: openai.AsyncOpenAI) -> None:
        self.box, self.served, self.client = box, served, client

    async def say(self, **fields: Any) -> Any:
        """A plain answer with its headers."""
        said = {"model": "r", "messages": HELLO, "max_tokens": 12, **fields}
        return await self.client.chat.completions.with_raw_response.create(**said)

    async def stream(self, **fields: Any) -> tuple[list[Any], Mapping[str, str]]:
        """The chunks of a stream and its headers."""
        found = await self.say(stream=True, stream_options={"include_usage": True}, **fields)
        return [chunk async for chunk in found.parse()], found.headers

    def asked(self) -> list[tuple[str, str]]:
        """Which operation of Bedrock was called, and how that ended."""
        return [(call["path"].rpartition("/")[2], call["ended"]) for call in self.box.calls("bedrock")]


@asynccontextmanager
async def world(
    *deployments: Any, account: Mapping[str, Any] | None = None, clock: Clock | None = None, **fields: Any
) -> AsyncIterator[World]:
    """`account` is said of Bedrock beyond its URL; `fields` of the route."""
    async with Sandbox(port=0, clouds=["bedrock", "groq"]) as box:
        clouds = {name: server.cloud.account(server.origin()) for name, server in box.servers.items()}
        said = dict(account) if account is not None else clouds["bedrock"]
        clouds["bedrock"] = {"type": "bedrock", "url": box.origins["bedrock"], "region": auth.REGION, **said}
        route = {"deployments": list(deployments or (BEDROCK,)), "policies": [], **fields}
        async with (
            serving({"providers": clouds, "routes": {"r": route}}, clock=clock) as served,
            openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client,
        ):
            yield World(box, served, client)
            await served.at_rest()


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


# ---------------------------------------------------------------------- good days
@pytest.mark.parametrize("account", [None, {"api_key": auth.API_KEY}], ids=["signed", "api key"])
async def test_a_plain_call_and_a_stream_say_the_same(account: Any) -> None:
    async with world(account=account) as w:
        plain = (await w.say()).parse()
        chunks, headers = await w.stream()
        assert text_of(chunks) == plain.choices[0].message.content
        assert plain.choices[0].finish_reason == "length"
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
        assert chunks[-1].usage == plain.usage
        assert {c.model for c in chunks} == {plain.model} == {"r"}
        assert {c.id for c in chunks} == {chunks[0].id}
        assert headers["x-arriero-deployment"] == "bedrock"
        assert "x-arriero-degraded" not in headers
        assert w.asked() == [("converse", "done"), ("converse-stream", "done")]
        assert [call["credential"] for call in w.box.calls()] == ["ok", "ok"]
        assert len({call["connection"] for call in w.box.calls()}) == 1


async def test_system_turns_unicode_and_stop_strings() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *HELLO, {"role": "assistant", "content": "🦙é\n"}, *HELLO]
    async with world() as w:
        found = (await w.say(messages=messages, stop=["w0003"], max_tokens=50)).parse()
        assert found.choices[0].finish_reason == "stop"
        assert "w0003" not in found.choices[0].message.content
        sent = json.loads(w.box.calls()[0]["body"])
        assert sent["messages"][1]["content"] == [{"text": "🦙é\n"}]
        assert sent["inferenceConfig"] == {"maxTokens": 50, "stopSequences": ["w0003"]}


async def test_a_tool_is_called_and_its_result_given_as_with_any_cloud() -> None:
    async with world() as w:
        first = (await w.say(tools=[WEATHER], max_tokens=None)).parse().choices[0]
        assert first.finish_reason == "tool_calls"
        call = first.message.tool_calls[0]
        assert call.function.name == "weather"
        assert isinstance(json.loads(call.function.arguments), dict)
        talk = [*HELLO, first.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "12 °C"}]
        second = (await w.say(messages=talk, tools=[WEATHER])).parse()
        assert second.choices[0].message.content


async def test_tools_in_a_stream_are_a_plain_call_streamed_and_said() -> None:
    async with world() as w:
        chunks, headers = await w.stream(tools=[WEATHER], max_tokens=None)
        assert headers["x-arriero-degraded"] == "stream=emulated"
        pieces = [call for c in chunks if c.choices for call in c.choices[0].delta.tool_calls or ()]
        assert pieces[0].function.name == "weather"
        assert isinstance(json.loads("".join(p.function.arguments for p in pieces)), dict)
        assert chunks[-1].usage.total_tokens
        assert w.asked() == [("converse", "done")]
        decision = w.served.decisions()[0]
        assert decision.attempts[0].degraded == {"stream": "emulated"}


async def test_a_picture_goes_to_weights_that_see() -> None:
    data = base64.b64encode(b"\x89PNG").decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    seen = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    async with world(VISION) as w:
        assert (await w.say(messages=seen)).parse().choices[0].message.content
        block = json.loads(w.box.calls()[0]["body"])["messages"][0]["content"][1]
        assert block == {"image": {"format": "png", "source": {"bytes": data}}}
    async with world() as w:
        with pytest.raises(openai.BadRequestError, match="'vision' is not offered"):
            await w.say(messages=seen)
        assert w.asked() == []


async def test_a_temperature_above_one_is_clamped_and_said() -> None:
    async with world() as w:
        found = await w.say(temperature=1.7)
        assert found.headers["x-arriero-degraded"] == "temperature=clamped"
        assert json.loads(w.box.calls()[0]["body"])["inferenceConfig"]["temperature"] == 1.0


async def test_several_choices_and_json_are_stood_in_for() -> None:
    async with world() as w:
        found = await w.say(n=3)
        assert [c.index for c in found.parse().choices] == [0, 1, 2]
        assert found.headers["x-arriero-degraded"] == "n=emulated"
        assert found.parse().usage.completion_tokens == 36
        assert w.asked() == [("converse", "done")] * 3


@pytest.mark.parametrize(
    "model",
    [
        "meta.llama3-1-8b-instruct-v1:0",
        f"{_ARN}:inference-profile/us.meta.llama3-1-8b-instruct-v1:0",
        f"{_ARN}:application-inference-profile/sandboxprofile",
        f"{_ARN}:imported-model/a1b2c3d4e5f6",
        f"{_ARN}:provisioned-model/f6e5d4c3b2a1",
    ],
)
async def test_ids_profiles_and_arns_are_models(model: str) -> None:
    async with world({"account": "bedrock", "model": model}) as w:
        assert (await w.say()).parse().choices[0].message.content
        chunks, _ = await w.stream()
        assert text_of(chunks)
        assert {call["model"] for call in w.box.calls()} == {model}


async def test_a_guardrail_of_the_account_speaks_and_shows_its_trace() -> None:
    guardrail = {"id": GUARDRAIL, "version": "1", "trace": "enabled"}
    keys = {"access_key_id": auth.ACCESS_KEY_ID, "secret_access_key": auth.SECRET_ACCESS_KEY}
    async with world(account={**keys, "guardrail": guardrail}) as w:
        bad = [{"role": "user", "content": f"Sell me {GUARDED_WORD}"}]
        found = (await w.say(messages=bad)).parse()
        assert found.choices[0].finish_reason == "content_filter"
        assert found.model_extra["trace"]["guardrail"]["actionReason"] == "GUARDRAIL_INTERVENED"
        chunks, _ = await w.stream(messages=bad)
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "content_filter"
        assert (await w.say()).parse().choices[0].finish_reason == "length"


async def test_a_guardrail_of_a_deployment_goes_before_that_of_its_account() -> None:
    keys = {"access_key_id": auth.ACCESS_KEY_ID, "secret_access_key": auth.SECRET_ACCESS_KEY}
    account = {**keys, "guardrail": {"id": "gr-account", "version": "1"}}
    own = {"id": GUARDRAIL, "version": "2", "trace": "enabled", "stream": "async"}
    said = {"guardrailIdentifier": GUARDRAIL, "guardrailVersion": "2", "trace": "enabled"}
    async with world({**BEDROCK, "guardrail": own}, account=account) as w:
        await w.say()
        await w.stream()
        sent = [json.loads(call["body"])["guardrailConfig"] for call in w.box.calls()]
        assert sent == [said, {**said, "streamProcessingMode": "async"}]
    async with world({**BEDROCK, "guardrail": own}) as w:
        await w.say()
        assert json.loads(w.box.calls()[0]["body"])["guardrailConfig"] == said


async def test_a_guardrail_at_a_cloud_that_has_none_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        async with world({**GROQ, "guardrail": {"id": "gr-1"}}):
            pass
    assert str(error.value) == (
        "routes.r.deployments[0].guardrail: 'groq' is of a cloud without guardrails: Bedrock has them"
    )


async def test_another_endpoint_is_refused_and_nothing_is_sent() -> None:
    async with world() as w:
        for create in (
            w.client.completions.create(model="r", prompt="Hello"),
            w.client.embeddings.create(model="r", input="Hello"),
        ):
            with pytest.raises(openai.BadRequestError, match="is not offered by bedrock"):
                await create
        assert w.asked() == []


async def test_what_a_route_wants_of_a_missing_feature_reaches_the_cloud() -> None:
    """Below the policy that says it: the same call at a strict, an emulating and a lossy deployment."""
    made = call(tools=[WEATHER], stream=True, seed=7)
    at = {missing: deployment(missing=missing) for missing in ("strict", "emulate", "lossy")}
    async with world() as w:
        provider = w.served.gateway.fleet.providers["bedrock"]
        for missing in ("strict", "emulate"):
            with pytest.raises(UpstreamError, match="as asked"):
                await provider.send(made, at[missing])
        llama = msgspec.structs.replace(at["lossy"], model=BEDROCK["model"])
        reply = await provider.send(made, llama)
        assert reply.degraded == {"seed": "dropped", "stream": "emulated"}
        assert b"tool_calls" in await reply.chunk()
        assert b"seed" not in w.box.calls()[0]["body"].encode()


# ---------------------------------------------------------------------- bad days
@pytest.mark.parametrize("status", [403, 404, 408, 424, 429, 500, 503])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_that_is_not_the_callers_goes_on_to_groq(status: int, stream: bool) -> None:
    async with world(BEDROCK, GROQ) as w:
        w.box.set("bedrock", fault={"kind": "status", "status": status})
        answer = await ask(w.served, chat(stream=stream))
        assert answer.status == 200
        assert answer.headers["x-arriero-deployment"] == "groq"
        assert answer.headers["x-arriero-attempts"] == "2"


@pytest.mark.parametrize("status", [400, 424, 429, 500, 503])
async def test_an_exception_that_comes_first_in_a_stream_is_another_attempts_chance(status: int) -> None:
    async with world(BEDROCK, GROQ) as w:
        w.box.set("bedrock", fault={"kind": "error_event", "status": status})
        answer = await ask(w.served, chat(stream=True))
        if status == 400:
            assert (answer.status, answer.error["type"]) == (400, "ValidationException")
        else:
            assert answer.done
            assert answer.headers["x-arriero-deployment"] == "groq"


@pytest.mark.parametrize("status", [400, 424, 429, 500, 503])
async def test_b13_an_exception_in_mid_stream_is_said_and_not_called_an_end(status: int) -> None:
    async with world(BEDROCK, GROQ) as w:
        w.box.set("bedrock", fault={"kind": "error_event", "status": status, "after_tokens": 3})
        answer = await ask(w.served, chat(stream=True))
        assert len(answer.deltas) == 3
        assert not answer.done
        assert answer.fault is not None
        assert answer.fault["code"] == "stream_incomplete"
        assert "Exception)" in answer.fault["message"]


FAULTS: list[tuple[dict[str, Any], bool]] = [
    ({"kind": "bad_frame", "variant": "crc"}, True),
    ({"kind": "bad_frame", "variant": "prelude_crc"}, True),
    ({"kind": "bad_frame", "variant": "lengths"}, True),
    ({"kind": "bad_frame", "variant": "cut"}, True),
    ({"kind": "bad_frame", "variant": "junk"}, True),
    ({"kind": "bad_frame", "variant": "bad_utf8"}, True),
    ({"kind": "bad_json", "after_tokens": 2}, True),
    ({"kind": "drift", "variant": "wrong_types"}, False),
    ({"kind": "neither"}, True),
    ({"kind": "close_after_tokens", "after_tokens": 2}, True),
    ({"kind": "reset_after_tokens", "after_tokens": 2}, True),
    ({"kind": "bad_chunk", "after_tokens": 2}, True),
    ({"kind": "short_body"}, True),
    ({"kind": "big_event"}, True),
    ({"kind": "html"}, False),
    ({"kind": "error_body"}, False),
    ({"kind": "empty"}, False),
    ({"kind": "reset_before"}, False),
    ({"kind": "close_before"}, False),
    ({"kind": "redirect"}, False),
    ({"kind": "refuse"}, False),
    ({"kind": "gzip"}, False),
]


@pytest.mark.parametrize(
    ("fault", "begun"), FAULTS, ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else None
)
async def test_a_stream_that_goes_wrong_is_incomplete_or_goes_on_to_groq(fault: Any, begun: bool) -> None:
    async with world(BEDROCK, GROQ) as w:
        w.box.set("bedrock", fault=fault)
        answer = await ask(w.served, chat(stream=True))
        if begun:
            assert answer.headers["x-arriero-deployment"] == "bedrock"
            assert answer.deltas
            assert answer.fault is not None
            assert answer.fault["code"] == "stream_incomplete"
        else:
            assert answer.done
            assert answer.headers["x-arriero-deployment"] == "groq"


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "html"}, {"kind": "error_body"}, {"kind": "empty"}, {"kind": "empty", "variant": "choices"},
        {"kind": "neither"}, {"kind": "drift", "variant": "wrong_types"}, {"kind": "bad_json"}, {"kind": "short_body"},
        {"kind": "close_after_tokens"}, {"kind": "reset_before"}, {"kind": "gzip"},
    ],
    ids=lambda fault: "-".join(fault.values()),
)  # fmt: skip
async def test_a_plain_answer_that_goes_wrong_goes_on_to_groq(fault: Any) -> None:
    async with world(BEDROCK, GROQ) as w:
        w.box.set("bedrock", fault=fault)
        answer = await ask(w.served, chat())
        assert answer.status == 200
        assert answer.headers["x-arriero-deployment"] == "groq"


@pytest.mark.parametrize(
    "fault", [{"kind": "no_usage"}, {"kind": "drift"}, {"kind": "usage_twice"}, {"kind": "slow_bytes"}]
)
async def test_what_is_odd_but_whole_is_a_good_answer(fault: Any) -> None:
    async with world() as w:
        w.box.set("bedrock", fault=fault)
        assert (await ask(w.served, chat(stream=True, max_tokens=5))).done
        assert (await ask(w.served, chat(max_tokens=5))).status == 200
        estimated = [kept.attempts[0].cost_estimated for kept in w.served.decisions()]
        assert estimated == [fault["kind"] == "no_usage"] * 2


async def test_a_fault_of_the_callers_is_passed_on_in_bedrocks_words() -> None:
    async with world(BEDROCK, GROQ) as w:
        with pytest.raises(openai.BadRequestError, match="Member must have value less than or equal to 1"):
            await w.say(top_p=1.5)
        assert [call["cloud"] for call in w.box.calls()] == ["bedrock"]
    async with world(VISION) as w:
        image = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}
        with pytest.raises(openai.BadRequestError, match="not fetched"):
            await w.say(messages=[{"role": "user", "content": [image]}])
        assert w.box.calls() == []


BEGUN = [{"role": "assistant", "content": "Hello, I am here."}, *HELLO]
BROKEN = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{bad"}}
BROKEN_CALL = [
    *HELLO,
    {"role": "assistant", "content": None, "tool_calls": [BROKEN]},
    {"role": "tool", "tool_call_id": "c", "content": "x"},
]


@pytest.mark.parametrize("messages", [BEGUN, BROKEN_CALL], ids=["the assistant begins", "a call that is no JSON"])
async def test_what_only_converse_cannot_take_goes_to_the_next_cloud(messages: Any) -> None:
    async with world(BEDROCK, GROQ) as w:
        assert (await w.say(messages=messages)).headers["x-arriero-deployment"] == "groq"
        assert [call["cloud"] for call in w.box.calls()] == ["groq"]
        assert w.served.gateway.fleet.routes["r"].lanes["bedrock"].facts.failures == 0


async def test_words_beside_calls_and_results_reach_a_llama_that_refuses_them_there() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    talk = [*HELLO, {"role": "assistant", "content": "Let me see.", "tool_calls": [called]}]
    talk += [{"role": "tool", "tool_call_id": "c", "content": "12 °C"}, {"role": "user", "content": "And tomorrow?"}]
    async with world() as w:
        answer = await w.say(messages=talk, tools=[WEATHER])
        assert answer.headers["x-arriero-degraded"] == "messages=emulated"
        sent = w.box.calls()[0]["body"]
        assert all(text in sent for text in ("Let me see.", "12 °C", "And tomorrow?"))


async def test_an_output_limit_beyond_the_weights_is_clamped_and_said() -> None:
    async with world() as w:
        assert (await w.say(max_tokens=5000)).headers["x-arriero-degraded"] == "max_tokens=clamped"
        assert json.loads(w.box.calls()[0]["body"])["inferenceConfig"] == {"maxTokens": 4096}


async def test_too_long_a_prompt_goes_on_to_a_larger_window() -> None:
    small = {**BEDROCK, "context_tokens": 100}
    async with world(small, {**GROQ, "context_tokens": 1000}) as w:
        w.box.set("bedrock", context_tokens=5)
        assert (await ask(w.served, chat())).headers["x-arriero-deployment"] == "groq"
    async with world(small) as w:
        w.box.set("bedrock", context_tokens=5)
        with pytest.raises(openai.BadRequestError) as caught:
            await w.say()
        assert caught.value.code == "context_length_exceeded"


async def test_a_model_that_only_a_profile_has_is_our_config_and_not_the_caller() -> None:
    async with world({"account": "bedrock", "model": "meta.llama3-3-70b-instruct-v1:0"}, GROQ) as w:
        assert (await ask(w.served, chat())).headers["x-arriero-deployment"] == "groq"
        assert w.served.decisions()[0].attempts[0].outcome == "model_gone"


async def test_a_daily_quota_cools_for_as_long_as_ever_and_a_minutes_does_not() -> None:
    clock = Clock()
    async with world(clock=clock) as w:
        w.box.set("bedrock", limits={"tokens": 1, "tokens_period_s": 86_400})
        await ask(w.served, chat())
        refused = await ask(w.served, chat())
        assert refused.status == 429
        assert refused.headers["retry-after"] == str(int(MAX_COOL_S))
        facts = w.served.gateway.fleet.routes["r"].lanes["bedrock"].facts
        assert (
            facts.view(w.served.gateway.fleet.routes["r"].lanes["bedrock"].deployment, clock()).cooling_until
            == clock() + MAX_COOL_S
        )
    async with world() as w:
        w.box.set("bedrock", limits={"tokens": 1})
        await ask(w.served, chat())
        assert (await ask(w.served, chat())).headers["retry-after"] != str(int(MAX_COOL_S))


@pytest.mark.parametrize("fields", [{"access_key_id": "AKIANOBODY", "secret_access_key": "x"}, {"api_key": "wrong"}])
async def test_a_credential_that_is_refused_is_never_the_callers_401(fields: Any) -> None:
    async with world(account=fields) as w:
        answer = await ask(w.served, chat())
        assert (answer.status, answer.error["code"]) == (502, "upstream_auth")
        assert all(secret not in answer.body.decode() for secret in fields.values() if len(secret) > 1)
    async with world(BEDROCK, GROQ, account=fields) as w:
        assert (await ask(w.served, chat())).headers["x-arriero-deployment"] == "groq"


# ---------------------------------------------------------------------- keys that expire
@asynccontextmanager
async def with_a_role(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> AsyncIterator[World]:
    """A gateway whose keys come from the box's container endpoint, the way a pod on AWS gets them."""
    async with Sandbox(port=0, clouds=["bedrock", "groq"]) as box:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK", raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", box.origins["bedrock"] + box_tokens.CONTAINER_PATH)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", box_tokens.CONTAINER_AUTHORIZATION)
        clouds = {"groq": box.servers["groq"].cloud.account(box.origins["groq"])}
        clouds["bedrock"] = {"type": "bedrock", "url": box.origins["bedrock"], "region": auth.REGION}
        route = {"deployments": [BEDROCK, GROQ], "policies": []}
        async with (
            serving({"providers": clouds, "routes": {"r": route}}, clock=clock) as served,
            openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client,
        ):
            yield World(box, served, client)


async def test_keys_that_were_taken_back_early_are_fetched_anew_and_the_call_sent_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with with_a_role(monkeypatch, Clock()) as w:
        assert (await ask(w.served, chat())).headers["x-arriero-deployment"] == "bedrock"
        w.box.servers["bedrock"].site.tokens.clear()
        answers = [await ask(w.served, chat(stream=stream)) for stream in (False, True)]
        assert [a.headers["x-arriero-deployment"] for a in answers] == ["bedrock", "bedrock"]
        assert [a.headers["x-arriero-attempts"] for a in answers] == ["1", "1"]
        assert [call["status"] for call in w.box.calls("bedrock")] == [200, 403, 200, 200]


async def test_keys_that_are_refused_anew_at_once_are_given_up_for_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with with_a_role(monkeypatch, Clock()) as w:
        await ask(w.served, chat())
        w.box.set("bedrock", token_ttl_s=0.0)  # keys that have expired when they are used
        w.box.servers["bedrock"].site.tokens.clear()
        assert (await ask(w.served, chat())).headers["x-arriero-deployment"] == "groq"


async def test_the_keys_of_a_role_are_struck_out_of_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with with_a_role(monkeypatch, Clock()) as w:
        await ask(w.served, chat())
        runtime = w.served.gateway.fleet.providers["bedrock"]
        assert isinstance(runtime, Runtime)
        keys = await runtime.source.get()
        assert isinstance(keys, Keys)
        assert set(runtime.secrets) == {keys.secret_access_key, keys.session_token}
