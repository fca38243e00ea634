"""The leaf: a gateway in the environment that has litellm, against a sandbox cloud, plain and streamed and refused."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from sandbox.run import Sandbox
from tests.needs import need

ROOT = Path(__file__).parents[2]
ARRIERO = ROOT / ".venv-litellm" / "bin" / "arriero"
CONFIG = """
providers:
  leaf: {{type: litellm, url: {url}, api_key: sandbox-vllm}}
routes:
  llama:
    deployments: [{{account: leaf, model: hosted_vllm/meta-llama/Llama-3.1-8B-Instruct, price: {{in: 1, out: 2}}}}]
    policies: []
"""
HELLO = [{"role": "user", "content": "Hello"}]


@contextlib.asynccontextmanager
async def leaf(box: Sandbox, folder: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a gateway whose only account is litellm in front of the sandbox's vLLM."""
    need("litellm in .venv-litellm (make .venv-litellm/.installed)", ARRIERO.exists())
    file = folder / "arriero.yaml"
    file.write_text(CONFIG.format(url=box.urls["vllm"]))
    words = ["serve", "--config", str(file), "--port", "0", "--admin-port", "0"]
    process = await asyncio.create_subprocess_exec(str(ARRIERO), *words, stderr=asyncio.subprocess.PIPE, cwd=folder)
    assert process.stderr is not None
    try:
        base_url = ""
        async with asyncio.timeout(60):
            while not base_url:
                line = (await process.stderr.readline()).decode()
                assert line, "the gateway ended before it listened"
                found = re.search(r"listens on (http://\S+)", line)
                base_url = found[1].rstrip(",") if found else ""
        reader = asyncio.create_task(process.stderr.read())
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any", max_retries=0) as client:
            yield client
    finally:
        process.terminate()
        await process.wait()
    log = (await reader).decode()
    assert "Traceback" not in log, log


async def test_plain_and_streamed_answers_come_through_litellm(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vllm"]) as box, leaf(box, tmp_path) as client:
        raw = await client.chat.completions.with_raw_response.create(model="llama", messages=HELLO, max_tokens=6)
        plain = raw.parse()
        assert plain.model == "llama"
        assert plain.usage is not None
        assert plain.usage.completion_tokens == 6
        cost = plain.usage.prompt_tokens * 1000 + 6 * 2000
        assert raw.headers["x-arriero-cost-usd"] == f"0.{cost:09d}".rstrip("0")
        stream = await client.chat.completions.create(model="llama", messages=HELLO, max_tokens=6, stream=True)
        chunks = [chunk async for chunk in stream]
        assert (
            "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
        )
        assert chunks[-1].usage is None
        assert len(box.calls()) == 2


async def test_a_refusal_keeps_its_status_and_is_not_tried_again_by_litellm(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vllm"]) as box, leaf(box, tmp_path) as client:
        box.set("vllm", fault={"kind": "status", "status": 429, "headers": {"retry-after": "7"}})
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="llama", messages=HELLO, max_tokens=6)
        assert refused.value.response.headers["retry-after"] == "7"
        assert len(box.calls()) == 1


async def test_a_stream_that_breaks_behind_litellm_is_said_to_be_incomplete(tmp_path: Path) -> None:
    async with Sandbox(port=0, clouds=["vllm"]) as box, leaf(box, tmp_path) as client:
        box.set("vllm", fault={"kind": "close_after_tokens", "after_tokens": 3})
        stream = await client.chat.completions.create(model="llama", messages=HELLO, max_tokens=9, stream=True)
        with pytest.raises(openai.APIError, match="incomplete"):
            async for _ in stream:
                pass


def test_without_litellm_the_config_is_refused_with_the_command_that_mends_it() -> None:
    import importlib.util

    from gateway.app import Gateway
    from gateway.config import loading
    from gateway.errors import ConfigError

    assert importlib.util.find_spec("litellm") is None, "the test environment must not have litellm itself"
    config = loading.parse(CONFIG.format(url="http://127.0.0.1:1/v1"))
    with pytest.raises(ConfigError, match=r"providers.leaf: .*pip install 'arriero\[litellm\]'"):
        Gateway(config)
    assert "litellm" not in sys.modules
