"""The clouds' own SDKs as clients of the box: they must find nothing odd about it."""

import json
from collections.abc import Iterator
from typing import Any

import groq
import openai
import pytest
from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import UserMessage
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from sandbox.run import Sandbox
from tests.sandbox.test_answers import TOOLS
from tests.sandbox.wire import OPENAI_SHAPED, caller_of, key_of, model_of

CLOUDS = OPENAI_SHAPED
ASK: list[Any] = [{"role": "user", "content": "Tell me of llamas, as JSON."}]
NO_TOOLS, NO_JSON = {"azure"}, {"azure"}


@pytest.fixture(scope="module")
def threaded() -> Iterator[Sandbox]:
    """A box in a thread of its own: most of these SDKs are synchronous."""
    with Sandbox.in_thread() as box:
        yield box


@pytest.fixture(autouse=True)
def _fresh(threaded: Sandbox) -> None:
    threaded.reset()


def sdk(box: Sandbox, cloud: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=box.openai_urls[cloud], api_key=options.pop("key", key_of(cloud, box)), max_retries=0, **options
    )


def strict(dumped: dict[str, Any]) -> dict[str, Any]:
    """Groq's `service_tier` is on_demand, which OpenAI's model does not know; everything else is as OpenAI has it."""
    return {name: value for name, value in dumped.items() if (name, value) != ("service_tier", "on_demand")}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_openai_sdk_plain_and_streamed_are_the_same_answer(threaded: Sandbox, cloud: str) -> None:
    client, model = sdk(threaded, cloud), model_of(cloud, threaded)
    plain = client.chat.completions.create(model=model, messages=ASK, max_tokens=15)
    ChatCompletion.model_validate(strict(plain.model_dump()))
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 15
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + 15
    assert plain.model == model
    extra: dict[str, Any] = {} if cloud == "databricks" else {"stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model=model, messages=ASK, max_tokens=15, stream=True, **extra))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(strict(chunk.model_dump()))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert [c.usage for c in chunks if c.usage][-1].completion_tokens == 15
    records = threaded.calls(cloud)
    assert [(r["sent_tokens"], r["prompt_tokens"], r["ended"]) for r in records] == [
        (15, plain.usage.prompt_tokens, "done")
    ] * 2


@pytest.mark.parametrize("cloud", [cloud for cloud in CLOUDS if cloud not in NO_TOOLS])
def test_openai_sdk_runs_a_tool_loop(threaded: Sandbox, cloud: str) -> None:
    client, model = sdk(threaded, cloud), caller_of(cloud, threaded)
    tools: Any = TOOLS
    limit: Any = {"max_tokens": 200} if cloud == "vertex" else {}  # where a Llama 4 is mute without one
    first = client.chat.completions.create(model=model, messages=ASK, tools=tools, **limit)
    assert first.choices[0].finish_reason == "tool_calls"
    made = first.choices[0].message.tool_calls
    assert made
    assert made[0].type == "function"
    assert json.loads(made[0].function.arguments).keys() == {"city"}
    said = {"role": "assistant", "tool_calls": [call.model_dump() for call in made]}
    result = {"role": "tool", "tool_call_id": made[0].id, "content": "Sunny."}
    second = client.chat.completions.create(model=model, messages=[*ASK, said, result], tools=tools, **limit)
    assert second.choices[0].finish_reason == ("length" if limit else "stop")
    assert second.choices[0].message.content


@pytest.mark.parametrize("cloud", [cloud for cloud in CLOUDS if cloud not in NO_JSON])
def test_openai_sdk_gets_json(threaded: Sandbox, cloud: str) -> None:
    client = sdk(threaded, cloud)
    form: Any = {"type": "json_object"}
    made = client.chat.completions.create(model=model_of(cloud, threaded), messages=ASK, response_format=form)
    assert isinstance(json.loads(made.choices[0].message.content or ""), dict)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_openai_sdk_raises_the_right_errors(threaded: Sandbox, cloud: str) -> None:
    model = model_of(cloud, threaded)
    denied = openai.PermissionDeniedError if cloud == "databricks" else openai.AuthenticationError
    with pytest.raises(denied):
        sdk(threaded, cloud, key="wrong").chat.completions.create(model=model, messages=ASK)
    with pytest.raises(openai.NotFoundError):
        sdk(threaded, cloud).chat.completions.create(model="meta/nothing", messages=ASK)
    threaded.set(cloud, fault={"kind": "status", "status": 429})
    with pytest.raises(openai.RateLimitError):
        sdk(threaded, cloud).chat.completions.create(model=model, messages=ASK)
    threaded.set(cloud, fault={"kind": "status", "status": 500})
    with pytest.raises(openai.InternalServerError):
        sdk(threaded, cloud).chat.completions.create(model=model, messages=ASK)
    threaded.set(cloud, fault={"kind": "close_before"})
    with pytest.raises(openai.APIConnectionError):
        sdk(threaded, cloud).chat.completions.create(model=model, messages=ASK)


def test_openai_sdk_embeds_sees_and_weighs(threaded: Sandbox) -> None:
    client = sdk(threaded, "openai")
    made = client.embeddings.create(model="text-embedding-3-small", input=["llama", "alpaca"], dimensions=64)
    assert [len(row.embedding) for row in made.data] == [64, 64]
    floats = client.embeddings.create(
        model="text-embedding-3-small", input="llama", dimensions=64, encoding_format="float"
    )
    assert floats.data[0].embedding == pytest.approx(made.data[0].embedding, abs=1e-6)
    image: Any = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}
    ]
    assert client.chat.completions.create(model="gpt-4o", messages=image).usage.prompt_tokens > 500  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError):
        sdk(threaded, "vllm").chat.completions.create(model=model_of("vllm", threaded), messages=image)
    weighed = client.chat.completions.create(
        model="gpt-4o", messages=ASK, max_tokens=3, logprobs=True, top_logprobs=2, n=2
    )
    assert [len(choice.logprobs.content or []) for choice in weighed.choices if choice.logprobs] == [3, 3]
    assert len(client.models.list().data) == len(threaded.servers["openai"].cloud.models)


@pytest.mark.parametrize("cloud", ["vllm", "nim"])
def test_openai_sdk_completes_text(threaded: Sandbox, cloud: str) -> None:
    client, model = sdk(threaded, cloud), model_of(cloud, threaded)
    plain = client.completions.create(model=model, prompt="Once", max_tokens=9)
    parts = client.completions.create(model=model, prompt="Once", max_tokens=9, stream=True)
    assert "".join(part.choices[0].text for part in parts) == plain.choices[0].text
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 9


def test_groq_sdk(threaded: Sandbox) -> None:
    origin, key = threaded.origins["groq"], key_of("groq", threaded)
    client = groq.Groq(api_key=key, base_url=origin, max_retries=0)
    raw = client.chat.completions.with_raw_response.create(model="llama-3.1-8b-instant", messages=ASK, max_tokens=8)
    plain = raw.parse()
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 8
    assert plain.usage.queue_time is not None
    assert plain.x_groq is not None
    assert plain.service_tier == "on_demand"
    assert int(raw.headers["x-ratelimit-remaining-requests"]) < int(raw.headers["x-ratelimit-limit-requests"])
    assert "retry-after" not in raw.headers
    chunks = list(client.chat.completions.create(model="llama-3.1-8b-instant", messages=ASK, max_tokens=8, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
    assert chunks[0].x_groq is not None
    assert chunks[0].x_groq.id
    last = chunks[-1].x_groq
    assert last is not None
    assert last.usage is not None
    assert last.usage.completion_tokens == 8
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    with pytest.raises(groq.AuthenticationError):
        groq.Groq(api_key="gsk_wrong", base_url=origin, max_retries=0).models.list()
    with pytest.raises(groq.BadRequestError, match="number must be at most 1"):
        client.chat.completions.create(model="llama-3.1-8b-instant", messages=ASK, n=2)


def test_azure_ai_inference_sdk(threaded: Sandbox) -> None:
    client = ChatCompletionsClient(
        threaded.origins["azure"] + "/models", AzureKeyCredential(key_of("azure", threaded)), retry_total=0
    )
    ask = [UserMessage(content="Tell me of llamas.")]
    plain = client.complete(messages=ask, model="Meta-Llama-3.1-8B-Instruct", max_tokens=9)
    assert plain.usage.completion_tokens == 9
    updates = list(client.complete(messages=ask, model="Meta-Llama-3.1-8B-Instruct", max_tokens=9, stream=True))
    assert "".join(u.choices[0].delta.content or "" for u in updates if u.choices) == plain.choices[0].message.content
    assert [u.usage.completion_tokens for u in updates if u.usage] == [9]
    assert client.get_model_info().model_provider_name == "Meta"
    both = client.complete(
        messages=ask, model="Meta-Llama-3.1-8B-Instruct", model_extras={"n": 2}
    )  # asks for pass-through itself
    assert len(both.choices) == 2
    threaded.set("azure", fault={"kind": "status", "status": 429})
    with pytest.raises(HttpResponseError) as limited:
        client.complete(messages=ask, model="Meta-Llama-3.1-8B-Instruct")
    assert limited.value.status_code == 429
    assert limited.value.response is not None
    assert limited.value.response.headers["retry-after"] == "7"
