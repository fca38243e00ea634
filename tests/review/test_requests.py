"""What a request asks for: values that ask for nothing, several prompts in one call, tokens in the place of text."""

import json
from typing import Any

import pytest

from gateway.peek import Peeked, peek
from gateway.types import Endpoint
from tests.harness import (
    STREAM_HEAD,
    Connection,
    ask,
    chunk,
    config,
    json_answer,
    route,
    serving,
    upstream,
)

TOOL = {"type": "function", "function": {"name": "f"}}


def peeked(endpoint: Endpoint = "chat/completions", **fields: Any) -> Peeked:
    prompt = {"chat/completions": "messages", "completions": "prompt", "embeddings": "input"}[endpoint]
    said = {"model": "r", prompt: [{"role": "user", "content": "Hi"}] if prompt == "messages" else "Hi", **fields}
    return peek(json.dumps(said, separators=(",", ":")).encode(), endpoint)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": None, "seed": None, "logprobs": False, "tools": [], "response_format": {"type": "text"}, "n": 1},
        {"logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "top_logprobs": None, "audio": None},
        {"tools": None, "parallel_tool_calls": True, "tool_choice": "required", "stream": None, "n": None},
    ],
)
def test_what_asks_for_nothing_needs_nothing(fields: dict[str, Any]) -> None:
    assert peeked(**fields).features == {"chat"}


def test_parallel_tool_calls_of_null_ask_for_nothing() -> None:
    assert peeked(tools=[TOOL], parallel_tool_calls=None).features == {"chat", "tools"}


def test_text_that_begins_like_a_data_url_is_text() -> None:
    text = "data: " + "x" * 40_000
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    assert peeked(messages=messages).prompt_tokens > 10_000


def test_a_picture_counts_as_one_whatever_its_size() -> None:
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * 400_000}"}}]
    sound = [{"type": "input_audio", "input_audio": {"data": "A" * 400_000, "format": "wav"}}]
    for content in (parts, sound):
        assert peeked(messages=[{"role": "user", "content": content}]).prompt_tokens < 3_000


def test_a_completion_may_ask_for_no_new_tokens() -> None:
    """With `echo` and `logprobs` it scores the prompt."""
    found = peeked("completions", max_tokens=0, echo=True, logprobs=1)
    assert found.max_output_tokens == 0
    assert found.features == {"completions", "logprobs"}


@pytest.mark.parametrize("prompt", [[128_000, 9906, 1917], [128_000]], ids=len)
@pytest.mark.parametrize("endpoint", ["completions", "embeddings"])
def test_tokens_are_counted_as_what_they_are(endpoint: Endpoint, prompt: list[int]) -> None:
    name = "prompt" if endpoint == "completions" else "input"
    assert peeked(endpoint, **{name: prompt}).prompt_tokens == len(prompt)
    lists = peeked(endpoint, **{name: [prompt, prompt]})
    assert lists.prompt_tokens == 2 * len(prompt)


def test_every_prompt_of_a_completion_gets_its_choices() -> None:
    assert peeked("completions", prompt=["a", "b", "c"]).choices == 3
    assert peeked("completions", prompt=[[1, 2], [3]], n=2).choices == 4
    assert peeked("completions", prompt=[1, 2, 3]).choices == 1
    assert peeked("completions", prompt=["a", "b"]).features == {"completions"}
    assert peeked("embeddings", input=["a", "b"]).choices == 1


def text_chunk(index: int, text: str, finish: str | None = None) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": finish}
    body = {"id": "c", "object": "text_completion", "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


async def test_a_stream_for_two_prompts_is_not_whole_when_one_of_them_is() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        events = text_chunk(0, "a") + text_chunk(0, "", "stop") + text_chunk(1, "b")
        await connection.send(STREAM_HEAD + chunk(events) + chunk(b""))

    async with upstream(script) as cloud, serving(config({"r": route("a")}, a=cloud.url)) as served:
        body = json.dumps({"model": "r", "prompt": ["x", "y"], "stream": True}).encode()
        answer = await ask(served, body, "/v1/completions")
        assert answer.fault is not None
        assert answer.fault["code"] == "stream_incomplete"


async def test_the_window_holds_each_input_and_not_their_sum() -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            vector = {"object": "embedding", "index": 0, "embedding": [0.5]}
            await connection.send(json_answer({"object": "list", "model": "m", "data": [vector] * 20}))

    embedder = {"account": "a", "model": "m", "context_tokens": 512, "features": ["embeddings"]}
    routes = {"r": route(embedder, policies=["capability", "context_window"])}
    async with upstream(script) as cloud, serving(config(routes, a=cloud.url)) as served:
        many = json.dumps({"model": "r", "input": ["word " * 100] * 20}).encode()
        assert (await ask(served, many, "/v1/embeddings")).status == 200
        long = json.dumps({"model": "r", "input": ["a", "word " * 1000]}).encode()
        refused = await ask(served, long, "/v1/embeddings")
        assert (refused.status, refused.error["code"]) == (400, "context_length_exceeded")
