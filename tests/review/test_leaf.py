"""What a caller may say to litellm: OpenAI's words; where a call goes, and with which key, is the operator's."""

import json
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from sandbox.run import Sandbox
from tests.harness import Connection, answer_bytes, upstream
from tests.leaf.test_litellm import leaf

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


async def test_no_field_of_a_request_sends_the_call_elsewhere(tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(answer_bytes())

    async with upstream(script) as elsewhere, Sandbox(port=0, clouds=["vllm"]) as box, leaf(box, tmp_path) as client:
        there = {"model": "openai/gpt-4o", "api_base": elsewhere.url}
        ways = [
            {"fallbacks": [there]},
            {"model_list": [{"model_name": "x", "litellm_params": there}], "fallbacks": ["x"]},
            {"custom_llm_provider": "openai"},
            {"headers": {"host": "elsewhere.test"}, "mock_response": "made up"},
            {"timeout": 0.000001, "stream_timeout": 0.000001},
        ]
        for fields in ways:
            box.set("vllm", fault={"kind": "status", "status": 500, "times": 1})
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="llama", messages=HELLO, max_tokens=4, extra_body=fields)
            found = await client.chat.completions.create(model="llama", messages=HELLO, max_tokens=4, extra_body=fields)
            assert found.usage is not None
            assert found.usage.completion_tokens == 4
        assert elsewhere.requests == []
        assert len(box.calls()) == 2 * len(ways)


async def test_fields_that_litellm_does_not_know_reach_the_cloud(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vllm"]) as box, leaf(box, tmp_path) as client:
        await client.chat.completions.create(
            model="llama", messages=HELLO, max_tokens=4, seed=7, extra_body={"top_k": 5, "fallbacks": []}
        )
        (call,) = box.calls()
        body = json.loads(call["body"])
        assert (body["top_k"], body["seed"]) == (5, 7)


async def test_the_deadline_of_a_call_holds_for_litellm_too(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vllm"]) as box, leaf(box, tmp_path) as client:
        box.set("vllm", fault={"kind": "silent"})
        headers = {"x-arriero-timeout-s": "0.5"}
        with pytest.raises(openai.InternalServerError) as late:
            await client.chat.completions.create(model="llama", messages=HELLO, extra_headers=headers, timeout=20)
        assert late.value.status_code == 504
