"""What goes wrong with Oracle through litellm 1.109 does not here: one test each, from OpenAI's SDK to the wire.

The defects were seen by running it; BerriAI/litellm#40040, #30947 and #15080 tell of some of them."""

import asyncio
from typing import Any

import openai
import pytest

from tests.oci.conftest import Stage, scripted, staged, streamed

TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    for name in ("get_weather", "get_time")
]


async def test_length_and_tool_calls_in_lower_case_do_not_become_stop(stage: Stage) -> None:
    plain = await stage.ask(max_tokens=3)
    assert plain.choices[0].finish_reason == "length"
    chunks = await stage.stream(max_tokens=3)
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    called = await stage.ask(tools=TOOLS, max_tokens=200)
    assert called.choices[0].finish_reason == "tool_calls"


async def test_fragments_of_a_streamed_call_have_one_id_one_index_and_one_name(stage: Stage) -> None:
    plain = await stage.ask(tools=TOOLS, parallel_tool_calls=True, max_tokens=200)
    wanted = [(c.function.name, c.function.arguments) for c in plain.choices[0].message.tool_calls]
    async with stage.client.chat.completions.stream(
        model="r",
        messages=[{"role": "user", "content": "Hello"}],
        tools=TOOLS,
        parallel_tool_calls=True,
        max_tokens=200,
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert message.tool_calls is not None
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == wanted
    assert len(wanted) == 2
    assert len({c.id for c in message.tool_calls}) == 2
    assert final.choices[0].finish_reason == "tool_calls"


async def test_stream_options_are_taken_and_usage_is_oracles_own(stage: Stage) -> None:
    chunks = await stage.stream(max_tokens=5)
    plain = await stage.ask(max_tokens=5)
    assert chunks[-1].usage == plain.usage
    assert plain.usage.completion_tokens == 5
    assert stage.sent(0)["streamOptions"] == {"isIncludeUsage": True}


async def test_usage_is_asked_for_even_if_the_caller_does_not_want_to_see_it(stage: Stage) -> None:
    chunks = [chunk async for chunk in await stage.ask(stream=True, max_tokens=5)]
    assert all(chunk.usage is None for chunk in chunks)
    line = stage.served.calls()[-1]
    assert (line["output_tokens"], stage.sent()["streamOptions"]) == (5, {"isIncludeUsage": True})


async def test_parallel_tool_calls_are_passed_on(stage: Stage) -> None:
    await stage.ask(tools=TOOLS, parallel_tool_calls=False, max_tokens=200)
    assert stage.sent()["isParallelToolCalls"] is False


async def test_logprobs_come_back_plain_and_streamed(stage: Stage) -> None:
    plain = await stage.ask(logprobs=True, top_logprobs=3, max_tokens=4)
    content = plain.choices[0].logprobs.content
    assert "".join(token.token for token in content) == plain.choices[0].message.content
    assert [len(token.top_logprobs) for token in content] == [3, 3, 3, 3]
    chunks = await stage.stream(logprobs=True, top_logprobs=3, max_tokens=4)
    streamed = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == content
    assert "isStream" not in stage.sent(), "Oracle's streams have none"
    assert stage.served.decisions()[0].attempts[0].degraded == {"stream": "emulated"}


async def test_a_strict_route_refuses_a_stream_that_would_lack_its_logprobs() -> None:
    async with staged(policies=[{"capability": {"missing": "strict"}}]) as stage:
        with pytest.raises(openai.BadRequestError, match="'stream' is not offered by oci"):
            await stage.ask(stream=True, logprobs=True)
        assert (await stage.ask(logprobs=True, max_tokens=2)).choices[0].logprobs.content


async def test_every_one_of_n_choices_comes_back(stage: Stage) -> None:
    plain = await stage.ask(n=3, max_tokens=4)
    texts = [choice.message.content for choice in plain.choices]
    assert len(set(texts)) == 3
    chunks = await stage.stream(n=3, max_tokens=4)
    pieces = {0: "", 1: "", 2: ""}
    for chunk in chunks:
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
    assert list(pieces.values()) == texts


async def test_the_text_beside_tool_calls_is_not_dropped(stage: Stage) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}]
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    await stage.ask(messages=messages, tools=TOOLS)
    assert stage.sent()["messages"][1]["content"] == [{"type": "TEXT", "text": "Let me look."}]
    assert stage.sent()["messages"][1]["toolCalls"][0]["id"] == "c1"


async def test_an_answer_without_a_limit_is_as_long_as_the_deployment_allows_and_not_tiny(stage: Stage) -> None:
    await stage.ask()
    assert stage.sent()["maxTokens"] == 4000
    async with staged(deployment={"max_output_tokens": 900}) as other:
        await other.ask()
        assert other.sent()["maxTokens"] == 900


async def test_the_time_limits_of_the_account_hold_for_streams_too() -> None:
    async with staged(timeouts={"idle_s": 0.2, "first_byte_s": 5.0}) as stage:
        stage.box.set("oci", fault={"kind": "stall", "after_tokens": 2})
        began = asyncio.get_running_loop().time()
        with pytest.raises(openai.APIError, match="incomplete"):
            await stage.stream(max_tokens=9)
        assert asyncio.get_running_loop().time() - began < 5.0


async def test_headers_of_a_refusal_are_heeded(stage: Stage) -> None:
    stage.box.set("oci", fault={"kind": "status", "status": 429, "headers": {"retry-after": "7"}})
    with pytest.raises(openai.RateLimitError) as refused:
        await stage.ask()
    assert refused.value.response.headers["retry-after"] == "7"
    assert "opc-request-id" in refused.value.message


async def test_an_error_within_the_stream_is_an_error(stage: Stage) -> None:
    stage.box.set("oci", fault={"kind": "error_event", "after_tokens": 3, "status": 429})
    stream = await stage.ask(stream=True, max_tokens=9)
    pieces: list[str | None] = []

    async def read() -> None:
        async for chunk in stream:
            pieces.extend([choice.delta.content for choice in chunk.choices])

    with pytest.raises(openai.APIError) as broken:
        await read()
    assert broken.value.code == "stream_incomplete"
    assert len([piece for piece in pieces if piece]) == 3


async def test_an_error_that_comes_first_is_a_status_and_not_a_stream(stage: Stage) -> None:
    stage.box.set("oci", fault={"kind": "error_event", "status": 429})
    with pytest.raises(openai.RateLimitError):
        await stage.stream(max_tokens=9)


@pytest.mark.parametrize("reason", ["ERROR", "CONTENT_FILTERED", "NEVER_HEARD_OF"])
async def test_reasons_beyond_the_common_ones_are_not_all_stop(reason: str) -> None:
    text = '{"message":{"content":[{"type":"TEXT","text":"a"}]}}'
    async with scripted(streamed(text, f'{{"finishReason":"{reason}"}}')) as stage:
        if reason == "ERROR":
            with pytest.raises(openai.APIError, match="incomplete"):
                await stage.stream()
            return
        chunks = await stage.stream()
        (finished,) = [c.choices[0] for c in chunks if c.choices and c.choices[0].finish_reason]
        wanted = "content_filter" if reason == "CONTENT_FILTERED" else "stop"
        assert finished.finish_reason == wanted
        assert getattr(finished, "native_finish_reason", None) == (reason if wanted == "stop" else None)


async def test_the_developers_role_is_taken(stage: Stage) -> None:
    await stage.ask(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}])
    assert [message["role"] for message in stage.sent()["messages"]] == ["SYSTEM", "USER"]


async def test_schemas_with_references_are_taken(stage: Stage) -> None:
    parameters = {
        "$defs": {"Place": {"type": "object", "properties": {"city": {"type": "string"}}}},
        "type": "object",
        "properties": {"where": {"$ref": "#/$defs/Place"}, "unit": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    }
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    answer = await stage.raw(tools=tools, max_tokens=200)
    assert answer.headers["x-arriero-degraded"] == "nullable=dropped"
    assert stage.sent()["tools"][0]["parameters"]["properties"]["unit"] == {"type": "string"}
