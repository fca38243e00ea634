"""What litellm 1.109.1 gets wrong at the OpenAI-shaped clouds (its defects 6 to 10), and does not happen here.

Those of Oracle (1 to 4) and of Bedrock (5) are in tests/oci and tests/bedrock."""

import json
from typing import Any

import pytest

from tests.harness import (
    STREAM_HEAD,
    Connection,
    Script,
    ask,
    chat,
    chunk,
    delta,
    json_answer,
    route,
    serving,
    upstream,
)

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13},
}


def saying(answer: bytes) -> Script:
    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(answer)

    return script


def one(url: str, kind: str, **fields: Any) -> dict[str, Any]:
    base = {"groq": url, "azure": url.removesuffix("/v1"), "vertex": url.removesuffix("/v1"), "openai": url}[kind]
    account = {"type": kind, "url": base, **fields}
    return {"providers": {"a": account}, "routes": {"r": route({"account": "a", "model": "m"})}}


# ---------------------------------------------------------------------- 6: Groq
async def test_groqs_answer_without_a_service_tier_is_an_answer() -> None:
    async with upstream(saying(json_answer(ANSWER))) as cloud, serving(one(cloud.url, "groq", api_key="k")) as served:
        answer = await ask(served)
        assert (answer.status, answer.json()["choices"][0]["message"]["content"]) == (200, "Hi")


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_a_response_format_in_a_stream_is_sent_as_it_is_and_streamed(kind: str) -> None:
    wanted = {"type": kind, **({"json_schema": {"name": "n", "schema": {}}} if kind == "json_schema" else {})}
    events = [delta("{"), delta("}"), delta(None, "stop"), b"data: [DONE]\n\n"]
    stream = STREAM_HEAD + b"".join(chunk(event) for event in [*events, b""])
    async with upstream(saying(stream)) as cloud:
        document = one(cloud.url, "groq", api_key="k")
        document["routes"]["r"]["deployments"][0]["features"] = ["chat", "stream", kind]
        async with serving(document) as served:
            answer = await ask(served, chat(stream=True, response_format=wanted))
            assert answer.deltas == ["{", "}"]
            sent = json.loads(cloud.bodies()[0])
    assert sent["response_format"] == wanted
    assert "tools" not in sent


@pytest.mark.parametrize("where", ["top", "x_groq"])
async def test_streamed_usage_is_groqs_own_wherever_it_stands(where: str) -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    told = {"usage": usage} if where == "top" else {"x_groq": {"id": "req", "usage": usage}}
    events = [delta("one two three four five six seven eight"), delta(None, "stop", **told), b"data: [DONE]\n\n"]
    stream = STREAM_HEAD + b"".join(chunk(event) for event in [*events, b""])
    async with upstream(saying(stream)) as cloud, serving(one(cloud.url, "groq", api_key="k")) as served:
        assert (await ask(served, chat(stream=True))).done
        asked_for = await ask(served, chat(stream=True, stream_options={"include_usage": True}))
        await served.at_rest()
        calls = served.calls()
    assert [(call["prompt_tokens"], call["output_tokens"]) for call in calls] == [(8, 5), (8, 5)]
    assert asked_for.chunks[-1]["choices"] == []
    assert asked_for.chunks[-1]["usage"] == usage


# ---------------------------------------------------------------------- 7: Azure
async def test_azures_422_for_a_parameter_stays_a_422_in_its_words() -> None:
    refusal = {
        "status": 422,
        "code": "parameter_not_supported",
        "detail": {"loc": ["body", "logit_bias"], "input": {}},
        "message": "One of the parameters contain invalid values.",
    }
    async with (
        upstream(saying(json_answer(refusal, 422))) as cloud,
        serving(one(cloud.url, "azure", api_key="k", form="models")) as served,
    ):
        answer = await ask(served)
        attempt = served.decisions()[0].attempts[0]
    assert (answer.status, answer.error["message"]) == (422, refusal["message"])
    assert attempt.outcome in ("caller_error", "parameter")


async def test_azure_is_told_what_to_do_with_parameters_and_which_api_version() -> None:
    async with (
        upstream(saying(json_answer(ANSWER))) as cloud,
        serving(one(cloud.url, "azure", api_key="the-key", form="models")) as served,
    ):
        assert (await ask(served)).status == 200
        head = cloud.requests[0].lower()
    assert b"extra-parameters: pass-through" in head
    assert b"api-key: the-key" in head
    assert head.startswith(b"post /models/chat/completions?api-version=")


# ---------------------------------------------------------------------- 8 and 9: Vertex, and headers
async def test_vertexs_error_in_a_list_is_understood_and_its_headers_are_kept() -> None:
    told = [{"error": {"code": 429, "message": "Resource exhausted.", "status": "RESOURCE_EXHAUSTED"}}]
    refusal = json_answer(told, 429, {"retry-after": "7"})
    async with (
        upstream(saying(refusal)) as cloud,
        serving(one(cloud.url, "vertex", project="p", token="ya29.demo")) as served,
    ):
        answer = await ask(served)
        attempt = served.decisions()[0].attempts[0]
    assert (answer.status, answer.error["code"]) == (429, "upstream_rate_limited")
    assert int(answer.headers["retry-after"]) in (6, 7)
    assert attempt.outcome == "rate_limited"


async def test_vertexs_word_on_a_bad_request_is_the_callers() -> None:
    told = [{"error": {"code": 400, "message": "temperature must be in [0, 2]", "status": "INVALID_ARGUMENT"}}]
    async with (
        upstream(saying(json_answer(told, 400))) as cloud,
        serving(one(cloud.url, "vertex", project="p", token="ya29.demo")) as served,
    ):
        answer = await ask(served)
    assert (answer.status, answer.error["message"]) == (400, "temperature must be in [0, 2]")


# ---------------------------------------------------------------------- 10: what it does well, and so do we
async def test_a_stream_that_is_cut_is_said_to_be_cut() -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(STREAM_HEAD + chunk(delta("Hi")) + chunk(b""))

    async with upstream(script) as cloud, serving(one(cloud.url, "openai", api_key="k")) as served:
        answer = await ask(served, chat(stream=True))
        assert answer.deltas == ["Hi"]
        assert not answer.done
        assert answer.fault is not None
        assert answer.fault["code"] == "stream_incomplete"


async def test_vllms_error_chunk_is_an_error_event() -> None:
    error = b'data: {"error": {"message": "engine died", "type": "InternalServerError", "code": 500}}\n\n'
    stream = STREAM_HEAD + b"".join(chunk(event) for event in [delta("Hi"), error, b"data: [DONE]\n\n", b""])
    async with upstream(saying(stream)) as cloud, serving(one(cloud.url, "openai", api_key="k")) as served:
        answer = await ask(served, chat(stream=True))
        assert answer.fault is not None
        assert not answer.done
        assert b"engine died" not in answer.body
