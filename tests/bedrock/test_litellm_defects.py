"""What litellm 1.109.1 does wrong with Bedrock and its like, seen by running it; one test for each, none of it here."""

import json
from typing import Any

import openai
import pytest

from gateway.errors import UpstreamError
from gateway.outcome import judge
from providers._bedrock_answer import completion
from providers._bedrock_errors import refused
from providers._bedrock_request import OFFERS
from providers._completion import whole_bytes
from providers._emulation import Identity, plan
from tests.bedrock.calls import WEATHER, call, deployment, mapped
from tests.bedrock.test_gateway import BEDROCK, GROQ, HELLO, world
from tests.harness import ask, chat

SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


async def test_tools_in_a_stream_are_not_sent_to_converse_stream() -> None:
    async with world() as w:
        await w.stream(tools=[WEATHER], max_tokens=None)
        assert w.asked() == [("converse", "done")]


def test_a_tool_choice_is_an_answer_of_its_own_and_no_crash() -> None:
    with pytest.raises(UpstreamError) as caught:
        plan(call(tools=[WEATHER], tool_choice="required"), deployment(), OFFERS)
    assert (caught.value.status, caught.value.detail.param) == (400, "tool_choice")
    assert plan(call(tools=[WEATHER], tool_choice="auto"), deployment(), OFFERS).degraded == {}


async def test_a_json_schema_is_no_tool_that_nobody_asked_for() -> None:
    async with world(BEDROCK, GROQ) as w:
        await ask(w.served, chat(response_format=SCHEMA))
        assert all("toolConfig" not in json.loads(c["body"]) for c in w.box.calls("bedrock"))
        assert all("Answer with one JSON" in c["body"] for c in w.box.calls("bedrock"))


@pytest.mark.parametrize("field", [{"seed": 1}, {"frequency_penalty": 1}, {"logprobs": True}, {"logit_bias": {"1": 1}}])
def test_what_is_not_there_is_refused_by_its_name(field: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError) as caught:
        plan(call(**field), deployment(), OFFERS)
    assert caught.value.detail.param in ("seed", "frequency_penalty", "logprobs", "logit_bias")


async def test_every_choice_comes_back() -> None:
    async with world() as w:
        assert len((await w.say(n=2)).parse().choices) == 2


def test_the_text_beside_a_call_is_not_lost_on_either_way() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    talk = [*HELLO, {"role": "assistant", "content": "Let me see.", "tool_calls": [called]}]
    talk.append({"role": "tool", "tool_call_id": "c", "content": "x"})
    (result,) = mapped(messages=talk, tools=[WEATHER])[0]["messages"][2]["content"]
    assert {"text": "Let me see."} in result["toolResult"]["content"], "where a Llama takes it"
    use = {"toolUse": {"toolUseId": "t", "name": "weather", "input": {}}}
    message = {"role": "assistant", "content": [{"text": "Let me see."}, use]}
    raw = json.dumps({"output": {"message": message}, "stopReason": "tool_use"}).encode()
    found = json.loads(whole_bytes(completion(raw, Identity("i", 1, "m"))))["choices"][0]["message"]
    assert (found["content"], len(found["tool_calls"])) == ("Let me see.", 1)


@pytest.mark.parametrize(("reason", "wanted"), [("max_tokens", "length"), ("content_filtered", "content_filter")])
def test_a_reason_keeps_its_meaning(reason: str, wanted: str) -> None:
    raw = json.dumps({"output": {"message": {"content": [{"text": "x"}]}}, "stopReason": reason}).encode()
    assert completion(raw, Identity("i", 1, "m")).choices[0].finish_reason == wanted


def test_the_headers_of_a_refusal_are_kept() -> None:
    assert refused(429, {"retry-after": "7", "x-amzn-requestid": "r"}, b"{}").headers["retry-after"] == "7"


async def test_streamed_usage_is_bedrocks_and_no_estimate() -> None:
    async with world() as w:
        assert (await ask(w.served, chat(stream=True, max_tokens=9))).done
        record, kept = w.box.calls()[0], w.served.decisions()[0].attempts[0]
        assert not kept.cost_estimated
        assert w.served.calls()[0]["prompt_tokens"] == record["prompt_tokens"]
        assert w.served.calls()[0]["output_tokens"] == 9


async def test_a_callers_time_limit_holds_for_streams_as_well() -> None:
    async with world(account={"api_key": "ABSKc2FuZGJveC1hcGkta2V5", "timeouts": {"idle_s": 0.05}}) as w:
        w.box.set("bedrock", fault={"kind": "stall", "after_tokens": 2})
        answer = await ask(w.served, chat(stream=True))
        assert answer.fault is not None
        assert "sent no data within 0.05 s" in answer.fault["message"]


async def test_throttling_in_mid_stream_is_a_quota_of_ours() -> None:
    """As litellm has it right: a stream that is cut raises, a bad checksum is seen, a throttled one is a 429."""
    async with world() as w:
        w.box.set("bedrock", fault={"kind": "error_event", "status": 429, "after_tokens": 2})
        await ask(w.served, chat(stream=True))
        assert w.served.decisions()[0].attempts[0].outcome == "rate_limited"
        w.box.set("bedrock", fault={"kind": "error_event", "status": 429})
        with pytest.raises(openai.RateLimitError):
            await w.stream()


def test_an_error_object_where_an_answer_should_be_is_a_fault_of_the_cloud() -> None:
    with pytest.raises(UpstreamError) as caught:
        completion(b'{"message":"Internal failure","__type":"InternalFailure"}', Identity("i", 1, "m"))
    assert judge(caught.value).retry
