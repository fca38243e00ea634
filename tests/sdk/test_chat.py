"""Chats through the official SDK: what it sends arrives as it was, what it gets is what it expects."""

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from pydantic import BaseModel

from tests.sdk.conftest import LLAMA, PLACES, Wire

HELLO: Any = [{"role": "user", "content": "Hello, ¿qué tal? 日本 🦙"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Gets the {name}",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "time")
]
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E=="
)


class City(BaseModel):
    name: str
    inhabitants: int


def untouched(wire: Wire, model: str = LLAMA) -> bool:
    """Whether what arrived is what was sent, but for the model's name."""
    asked = json.loads(wire.sent)["model"]
    return wire.arrived == wire.sent.replace(f'"model":"{asked}"', f'"model":"{model}"', 1)


@pytest.mark.parametrize("cloud", PLACES)
def test_a_call_and_a_stream_say_the_same_on_every_cloud(wire: Wire, cloud: str):
    model = f"on-{cloud}"
    answer = wire.client.chat.completions.create(model=model, messages=HELLO, max_tokens=20)
    assert answer.model == model
    assert untouched(wire, str(PLACES[cloud]["model"]))
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20 == wire.call["answer_tokens"]
    assert answer.choices[0].finish_reason == "length"
    stream = wire.client.chat.completions.create(model=model, messages=HELLO, max_tokens=20, stream=True)
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {model}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]
    takes_options = cloud != "databricks"  # which sends usage in every chunk unasked
    assert json.loads(wire.arrived).get("stream_options") == ({"include_usage": True} if takes_options else None)


async def test_the_async_client_runs_calls_side_by_side(wire: Wire):
    import asyncio

    async with openai.AsyncOpenAI(base_url=wire.gateway.base_url, api_key="sk-team", max_retries=0) as client:

        async def one(n: int) -> str:
            stream = await client.chat.completions.create(
                model="on-vllm", messages=[{"role": "user", "content": f"Call {n}"}], max_tokens=n, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        answers = await asyncio.gather(*(one(n) for n in range(1, 21)))
        plain = await client.chat.completions.create(
            model="on-vllm", messages=[{"role": "user", "content": "Call 20"}], max_tokens=20
        )
    assert answers[-1] == plain.choices[0].message.content
    assert len(set(answers)) == 20


def test_everything_a_caller_may_say_arrives_as_it_was(wire: Wire):
    answer = wire.client.chat.completions.create(
        model="on-vllm",
        messages=[{"role": "system", "content": 'Say "x"\n\\u0000'}, *HELLO],
        seed=42,
        stop=["###", "\n\n"],
        n=3,
        logprobs=True,
        top_logprobs=2,
        max_tokens=8,
        temperature=0.0,
        top_p=0.95,
        frequency_penalty=-0.5,
        presence_penalty=0.5,
        logit_bias={"42": -100},
        user="user-1",
        metadata={"a": "b"},
        extra_body={
            "top_k": 40,
            "min_p": 1e-05,
            "model_": "on-vllm",
            "guided_choice": None,
            "vendor": {"z": None, "a": [9007199254740993, -0.0, 1e-300], "model": "on-vllm"},
        },
    )
    assert untouched(wire)
    assert "9007199254740993" in wire.arrived
    assert len(answer.choices) == 3
    assert {choice.index for choice in answer.choices} == {0, 1, 2}
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 2
    again = wire.client.chat.completions.create(model="", messages=[], extra_body=json.loads(wire.sent))
    assert [choice.message.content for choice in again.choices] == [c.message.content for c in answer.choices]


def test_choices_of_a_stream_keep_their_index(wire: Wire):
    plain = wire.client.chat.completions.create(model="on-vllm", messages=HELLO, n=3, max_tokens=5)
    texts = {0: "", 1: "", 2: ""}
    for chunk in wire.client.chat.completions.create(model="on-vllm", messages=HELLO, n=3, max_tokens=5, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert list(texts.values()) == [choice.message.content for choice in plain.choices]


@pytest.mark.parametrize("wanted", [True, False, None])
def test_usage_is_shown_in_a_stream_only_to_who_asked(wire: Wire, wanted: bool | None):
    options: Any = {} if wanted is None else {"stream_options": {"include_usage": wanted}}
    chunks: list[ChatCompletionChunk] = list(
        wire.client.chat.completions.create(model="on-vllm", messages=HELLO, max_tokens=5, stream=True, **options)
    )
    with_usage = [chunk for chunk in chunks if chunk.usage is not None]
    if wanted:
        assert [chunk.usage.completion_tokens for chunk in with_usage if chunk.usage] == [5]
        assert chunks[-1].choices == []
    else:
        assert with_usage == []
        assert all(chunk.choices for chunk in chunks)


def test_tools_are_called_alone_and_in_parallel(wire: Wire):
    plain = wire.client.chat.completions.create(
        model="on-vllm", messages=HELLO, tools=TOOLS, tool_choice="required", parallel_tool_calls=True
    )
    assert untouched(wire)
    calls = plain.choices[0].message.tool_calls
    assert calls is not None
    assert plain.choices[0].finish_reason == "tool_calls"
    assert {call.function.name for call in calls if call.type == "function"} == {"weather", "time"}
    assert all("city" in json.loads(call.function.arguments) for call in calls if call.type == "function")
    messages = [*HELLO, plain.choices[0].message.model_dump(exclude_none=True)]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    final = wire.client.chat.completions.create(model="on-vllm", messages=messages, tools=TOOLS, max_tokens=9)
    assert untouched(wire)
    assert final.choices[0].message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "time"}}])
def test_streamed_tool_calls_come_together_as_the_plain_ones(wire: Wire, choice: Any):
    plain = wire.client.chat.completions.create(model="on-vllm", messages=HELLO, tools=TOOLS, tool_choice=choice)
    with wire.client.chat.completions.stream(
        model="on-vllm", messages=HELLO, tools=TOOLS, tool_choice=choice
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    said, streamed = plain.choices[0].message.tool_calls, final.choices[0].message.tool_calls
    assert said
    assert streamed
    assert [(c.function.name, c.function.arguments) for c in streamed] == [
        (c.function.name, c.function.arguments) for c in said if c.type == "function"
    ]
    assert "tool_calls.function.arguments.done" in kinds
    assert all(call.id for call in streamed)


def test_the_streaming_helper_gathers_the_text(wire: Wire):
    plain = wire.client.chat.completions.create(model="on-groq", messages=HELLO)
    with wire.client.chat.completions.stream(
        model="on-groq", messages=HELLO, stream_options={"include_usage": True}
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert text == plain.choices[0].message.content == final.choices[0].message.content
    assert final.usage is not None
    assert plain.usage is not None
    assert final.usage.completion_tokens == plain.usage.completion_tokens
    assert final.model == "on-groq"


def test_a_pydantic_model_comes_back_filled_in_plain_and_streamed(wire: Wire):
    plain = wire.client.chat.completions.parse(model="on-vllm", messages=HELLO, response_format=City)
    assert untouched(wire)
    assert json.loads(wire.arrived)["response_format"]["json_schema"]["strict"] is True
    assert isinstance(plain.choices[0].message.parsed, City)
    with wire.client.chat.completions.stream(model="on-vllm", messages=HELLO, response_format=City) as stream:
        stream.until_done()
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == plain.choices[0].message.parsed


def test_json_mode_gives_json(wire: Wire):
    asked: Any = [{"role": "user", "content": "As json, please"}]
    answer = wire.client.chat.completions.create(
        model="on-groq", messages=asked, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    assert untouched(wire, "llama-3.1-8b-instant")


def test_pictures_arrive_as_they_were(wire: Wire):
    parts: Any = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
    ]
    answer = wire.client.chat.completions.create(
        model="on-openai", messages=[{"role": "user", "content": parts}], max_tokens=5
    )
    assert answer.choices[0].message.content
    assert untouched(wire, "gpt-4o")


def test_raw_answers_carry_our_headers(wire: Wire):
    raw = wire.client.chat.completions.with_raw_response.create(
        model="on-groq", messages=HELLO, max_tokens=5, extra_headers={"x-request-id": "my-id-1"}
    )
    assert raw.headers["x-request-id"] == "my-id-1" == raw.request_id
    assert raw.headers["x-arriero-decision"].startswith("dec_")
    assert raw.headers["x-arriero-deployment"] == "groq"
    assert raw.headers["x-arriero-attempts"] == "1"
    usage = raw.parse().usage
    assert usage is not None
    assert float(raw.headers["x-arriero-cost-usd"]) == (usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6
    assert wire.call["headers"]["x-request-id"] == "my-id-1"
    own = wire.client.chat.completions.create(model="on-groq", messages=HELLO, max_tokens=5)
    assert own._request_id is not None
    assert own._request_id.startswith("req_")


def test_a_streaming_response_carries_our_headers_before_its_events(wire: Wire):
    with wire.client.chat.completions.with_streaming_response.create(
        model="on-vllm", messages=HELLO, max_tokens=5, stream=True
    ) as response:
        assert response.headers["x-arriero-deployment"] == "vllm"
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert "x-arriero-cost-usd" not in response.headers


def test_what_the_key_or_caller_must_not_reach_never_goes_upstream(wire: Wire):
    wire.client.chat.completions.create(
        model="on-groq",
        messages=HELLO,
        max_tokens=1,
        extra_headers={"x-secret": "s", "openai-organization": "org-of-the-caller"},
    )
    headers = wire.call["headers"]
    assert "x-secret" not in headers
    assert "openai-organization" not in headers
    assert not any(name.startswith("x-stainless") for name in headers)
    assert headers["user-agent"] == "arriero"
    assert wire.call["credential"] == "ok"
