"""From the official SDK through the gateway to a cloud and back."""

import openai

from sandbox.run import Sandbox
from tests.harness import serving


async def test_a_plain_call_and_a_stream_come_back_under_the_name_that_was_asked() -> None:
    async with Sandbox(port=0, clouds=["vllm", "groq"]) as box, serving(box.config_text()) as served:
        async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as client:
            plain = await client.chat.completions.create(
                model="llama-3.1-8b", messages=[{"role": "user", "content": "Hello"}], max_tokens=7
            )
            assert plain.model == "llama-3.1-8b"
            assert plain.usage is not None
            assert plain.usage.completion_tokens == 7
            stream = await client.chat.completions.create(
                model="llama-3.1-8b", messages=[{"role": "user", "content": "Hello"}], max_tokens=7, stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
            assert text == plain.choices[0].message.content
        assert [call["status"] for call in served.calls()] == [200, 200]
