"""Each cloud is as strict as the real one, and says no in its own words."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.behaviour import Limits
from sandbox.limits import Limiter, go_duration
from sandbox.run import Sandbox
from tests.sandbox.wire import CHAT, bearer, call, model_of, send

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]

INVALID_KEY = {"message": "Invalid API Key", "type": "invalid_request_error", "code": "invalid_api_key"}
REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("vllm", {"temperature": -1}, 400, "temperature must be non-negative"),
    ("vllm", {"n": 0}, 400, "n must be at least 1"),
    ("vllm", {"top_p": 3}, 400, "top_p must be in (0, 1]"),
    ("vllm", {"max_tokens": 999_999}, 400, "cannot be greater than max_model_len=131072"),
    ("vllm", {"messages": IMAGE}, 400, "is not a multimodal model"),
    ("vllm", {"stream_options": {"include_usage": True}}, 400, "stream=True"),
    ("groq", {"n": 2}, 400, "number must be at most 1"),
    ("groq", {"logprobs": True}, 400, "`logprobs` is not supported with this model"),
    ("groq", {"logit_bias": {"1": 1}}, 400, "`logit_bias` is not supported"),
    ("groq", {"frequency_penalty": 0.5}, 400, "`frequency_penalty` is not supported"),
    ("groq", {"stop": list("abcde")}, 400, "'stop' : maximum number of items is 4"),
    ("groq", {"response_format": JSON_SCHEMA}, 400, "does not support response format `json_schema`"),
    ("groq", {"response_format": {"type": "json_object"}}, 400, "must contain the word 'json'"),
    ("groq", {"stop_": 1}, 400, "property 'stop_' is unsupported, did you mean 'stop'?"),
    (
        "groq",
        {"messages": [{"role": "user", "content": "x", "timestamp": 1}]},
        400,
        "property 'timestamp' is unsupported",
    ),
    ("groq", {"messages": IMAGE}, 400, "messages[0].content must be a string"),
    ("groq", {"max_tokens": 9_000}, 400, "must be less than or equal to `8192`"),
    ("groq", {"service_tier": "gold"}, 400, "on_demand"),
    ("databricks", {"seed": 1}, 400, 'json: unknown field "seed"'),
    ("databricks", {"stream": True, "stream_options": {"include_usage": True}}, 400, 'unknown field "stream_options"'),
    (
        "databricks",
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        400,
        '"parameters" is a required property',
    ),
    ("databricks", {"messages": None}, 400, "INVALID_PARAMETER_VALUE: Missing required Chat parameter: 'messages'"),
    ("databricks", {"model": "databricks-gte-large-en"}, 400, "INVALID_PARAMETER_VALUE"),
    ("nim", {"n": 2}, 400, "Unsupported parameter(s): `n`"),
    ("nim", {"logprobs": True}, 400, "Unsupported parameter(s): `logprobs`"),
    ("nim", {"temperature": 9}, 400, "temperature must be between 0 and 2"),
    ("vertex", {"temperature": 9}, 400, "INVALID_ARGUMENT"),
    ("vertex", {"messages": []}, 400, "INVALID_ARGUMENT"),
    ("vertex", {"messages": IMAGE}, 400, "does not support image input"),
    ("azure", {"tools": [TOOL]}, 422, "parameter_not_supported"),
    ("azure", {"response_format": {"type": "json_object"}}, 422, "parameter_not_supported"),
    ("azure", {"max_tokens": 9_000}, 422, "invalid_parameter"),
    ("azure", {"top_k": 5}, 400, "Unrecognized request argument supplied: top_k"),
    ("openai", {"top_k": 5}, 400, "Unrecognized request argument supplied: top_k"),
    ("openai", {"temperature": 3}, 400, "Expected a value <= 2"),
    ("openai", {"messages": []}, 400, "empty array"),
    ("openai", {"stop": list("abcde")}, 400, "maximum length 4"),
    ("openai", {"max_tokens": 20_000}, 400, "supports at most 16384 completion tokens"),
    ("openai", {"top_logprobs": 2}, 400, "only allowed when 'logprobs' is enabled"),
    ("openai", {"model": "meta-llama/Llama-3.1-8B-Instruct", "messages": IMAGE}, 400, "image_url"),
    ("openai", {"model": "text-embedding-3-small"}, 403, "not allowed to sample"),
]


@pytest.mark.parametrize(
    ("cloud", "body", "status", "words"), REFUSED, ids=[f"{r[0]}-{'-'.join(r[1])}-{i}" for i, r in enumerate(REFUSED)]
)
async def test_what_a_cloud_does_not_take(
    box: Sandbox, cloud: str, body: dict[str, Any], status: int, words: str
) -> None:
    seen = await call(box, cloud, **body)
    assert seen.status == status
    assert words in seen.body.decode().replace('\\"', '"')
    assert box.calls()[-1]["ended"] == "refused"


ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("vllm", {"unknown_to_all": 1}),
    ("vllm", {"n": 2, "seed": 3, "stop": ["x"], "presence_penalty": 0.1, "logit_bias": {"1": 2}}),
    ("groq", {"seed": 1, "stop": ["x"], "parallel_tool_calls": False}),
    ("vertex", {"unknown_to_all": 1, "stop": ["x"]}),
    ("databricks", {"n": 2, "stop": ["x"], "top_k": 4}),
    ("nim", {"seed": 1, "frequency_penalty": 0.2}),
    ("azure", {"seed": 1, "presence_penalty": 0.5, "stream_options": {"include_usage": True}, "stream": True}),
    ("openai", {"seed": 1, "n": 2, "logprobs": True, "top_logprobs": 3, "logit_bias": {"1": 2}}),
]


@pytest.mark.parametrize(("cloud", "body"), ACCEPTED)
async def test_what_a_cloud_takes(box: Sandbox, cloud: str, body: dict[str, Any]) -> None:
    assert (await call(box, cloud, **body)).status == 200


@pytest.mark.parametrize(
    ("cloud", "key", "status", "body"),
    [
        ("vllm", None, 401, {"error": "Unauthorized"}),
        ("vllm", "Bearer no", 401, {"error": "Unauthorized"}),
        ("groq", "Bearer no", 401, {"error": INVALID_KEY}),
        ("databricks", "Bearer no", 403, {"error_code": "403", "message": "Invalid access token."}),
        ("nim", None, 401, {"status": 401, "title": "Unauthorized", "detail": "Authorization header missing"}),
    ],
)  # fmt: skip
async def test_a_bad_key(box: Sandbox, cloud: str, key: str | None, status: int, body: Any) -> None:
    path = box.openai_urls[cloud].removeprefix(box.origins[cloud]) + "/chat/completions"
    headers = {"authorization": key} if key else {}
    seen = await send(box, cloud, "POST", path, {"model": model_of(cloud, box), **CHAT}, headers)
    assert (seen.status, seen.json()) == (status, body)
    assert box.calls()[-1]["credential"] == ("bad" if key else "none")


@pytest.mark.parametrize(
    ("cloud", "words"),
    [
        ("vllm", "The model `nope` does not exist."),
        ("groq", "model_not_found"),
        ("azure", "DeploymentNotFound"),
        (
            "vertex",
            "Publisher Model `projects/sandbox-project/locations/us-central1/publishers/nope/models/` not found.",
        ),
        ("databricks", "RESOURCE_DOES_NOT_EXIST"),
        ("nim", "Not found for account"),
        ("openai", "model_not_found"),
    ],
)
async def test_an_unknown_model(box: Sandbox, cloud: str, words: str) -> None:
    seen = await call(box, cloud, model="nope")
    assert seen.status == 404
    assert words in seen.body.decode()


async def test_vertex_errors_are_a_list_and_the_project_is_checked(box: Sandbox) -> None:
    path = "/v1/projects/{}/locations/us-central1/endpoints/openapi/chat/completions"
    body = {"model": model_of("vertex", box), **CHAT}
    seen = await send(box, "vertex", "POST", path.format("sandbox-project"), body)
    assert seen.status == 401
    assert seen.json()[0]["error"]["status"] == "UNAUTHENTICATED"
    other = await send(box, "vertex", "POST", path.format("someone-else"), body, bearer("vertex", box))
    assert (other.status, other.json()[0]["error"]["status"]) == (403, "PERMISSION_DENIED")
    beta = path.format("sandbox-project").replace("/v1/", "/v1beta1/")
    assert (await send(box, "vertex", "POST", beta, body, bearer("vertex", box))).status == 200


async def test_vertex_and_databricks_have_no_opening_event(box: Sandbox) -> None:
    for cloud, role in (("vertex", None), ("databricks", "assistant")):
        first = (await call(box, cloud, stream=True)).data()[0]["choices"][0]["delta"]
        assert (first.get("role"), bool(first["content"])) == (role, True)


async def test_databricks_tells_usage_in_every_chunk_and_takes_the_native_path(box: Sandbox) -> None:
    chunks = (await call(box, "databricks", stream=True)).data()
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [*range(1, 13), 12]
    path = "/serving-endpoints/databricks-meta-llama-3-1-8b-instruct/invocations"
    assert (await send(box, "databricks", "POST", path, CHAT, bearer("databricks", box))).status == 200
    vectors = await send(
        box,
        "databricks",
        "POST",
        "/serving-endpoints/databricks-gte-large-en/invocations",
        {"input": "x"},
        bearer("databricks", box),
    )
    assert len(vectors.json()["data"][0]["embedding"]) == 1024


async def test_azure_in_its_four_forms(box: Sandbox) -> None:
    body = {"model": "Meta-Llama-3.1-8B-Instruct", **CHAT}
    key, token = {"api-key": "sandbox-azure"}, {"authorization": "Bearer sandbox-azure"}
    version = "?api-version=2024-05-01-preview"
    for path, headers, status in (
        ("/models/chat/completions" + version, key, 200),
        ("/models/chat/completions" + version, token, 200),
        ("/models/chat/completions" + version, {**key, "authorization": "Bearer other"}, 200),
        ("/models/chat/completions" + version, {"api-key": "wrong", **token}, 401),
        ("/models/chat/completions", key, 400),
        ("/models/chat/completions?api-version=soon", key, 400),
        ("/chat/completions" + version, token, 200),
        ("/v1/chat/completions", token, 200),
        ("/chat/completions" + version, key, 401),
        ("/openai/deployments/Meta-Llama-3.1-8B-Instruct/chat/completions" + version, key, 200),
        ("/openai/deployments/Meta-Llama-3.1-8B-Instruct/chat/completions", key, 404),
        ("/openai/deployments/other/chat/completions" + version, key, 404),
        ("/openai/v1/chat/completions", key, 200),
        ("/openai/v1/chat/completions", {"authorization": "Bearer eyJ.never.issued"}, 401),
        ("/nowhere", key, 404),
    ):
        seen = await send(box, "azure", "POST", path, body, headers)
        assert seen.status == status, path


async def test_azure_extra_parameters_are_refused_dropped_or_passed(box: Sandbox) -> None:
    path, key = "/models/chat/completions?api-version=2024-05-01-preview", {"api-key": "sandbox-azure"}
    body = {"model": "Meta-Llama-3.1-8B-Instruct", **CHAT, "n": 2}
    said = await send(box, "azure", "POST", path, body, key)
    assert said.status == 400
    assert "Extra parameters ['n'] are not allowed when extra-parameters is not set" in said.json()["error"]["message"]
    dropped = await send(box, "azure", "POST", path, body, {**key, "extra-parameters": "drop"})
    assert len(dropped.json()["choices"]) == 1
    passed = await send(box, "azure", "POST", path, body, {**key, "extra-parameters": "pass-through"})
    assert len(passed.json()["choices"]) == 2


async def test_azure_tells_usage_in_the_finish_chunk_of_the_inference_forms_only(box: Sandbox) -> None:
    body = {"model": "Meta-Llama-3.1-8B-Instruct", **CHAT, "stream": True}
    path, key = "/models/chat/completions?api-version=2024-05-01-preview", {"api-key": "sandbox-azure"}
    chunks = (await send(box, "azure", "POST", path, body, key)).data()
    assert [("usage" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    other = (await send(box, "azure", "POST", "/openai/v1/chat/completions", body, key)).data()
    assert all("usage" not in chunk for chunk in other)


async def test_vllm_guards_only_its_v1_paths_and_a_model_that_talks_does_not_embed(box: Sandbox) -> None:
    for path in ("/health", "/ping", "/load", "/version", "/metrics"):
        assert (await send(box, "vllm", "GET", path)).status == 200
    assert (await send(box, "vllm", "GET", "/v1/models")).status == 401
    assert (await send(box, "vllm", "POST", "/tokenize", {**CHAT})).json()["max_model_len"] == 131_072
    assert (await send(box, "vllm", "POST", "/v1/embeddings", {"input": "x"}, bearer("vllm", box))).json() == {
        "detail": "Not Found"
    }
    assert (await send(box, "vllm", "GET", "/v1/chat/completions", None, bearer("vllm", box))).status == 405
    embedder = {**CHAT, "model": "BAAI/bge-m3"}
    assert (await send(box, "vllm", "POST", "/v1/chat/completions", embedder, bearer("vllm", box))).status == 404
    body = {"model": "BAAI/bge-m3", "input": ["a llama", "b"]}
    made = (await send(box, "vllm", "POST", "/v1/embeddings", body, bearer("vllm", box))).json()
    assert list(made) == ["id", "object", "created", "model", "data", "usage"]
    assert made["id"].startswith("embd-")
    assert [list(row) for row in made["data"]] == [["index", "object", "embedding"]] * 2
    assert made["usage"] == {
        "prompt_tokens": 3,
        "total_tokens": 3,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }


async def test_vllm_takes_its_id_from_the_request(box: Sandbox) -> None:
    assert (await call(box, "vllm", headers={"x-request-id": "abc"})).json()["id"] == "chatcmpl-abc"


async def test_nim_health_needs_no_key(box: Sandbox) -> None:
    assert (await send(box, "nim", "GET", "/v1/health/ready")).json() == {
        "object": "health.response",
        "message": "Service is ready.",
    }
    assert (await send(box, "nim", "GET", "/v1/models")).status == 401
    assert (await send(box, "nim", "GET", "/v1/nowhere", None, bearer("nim", box))).body == b"404 page not found"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "nvidia/nv-embedqa-e5-v5"}, 400),
        ({"model": "nvidia/nv-embedqa-e5-v5", "input_type": "passage"}, 200),
        ({"model": "nvidia/nv-embedqa-e5-v5-query"}, 200),
        ({"model": "nvidia/nv-embedqa-e5-v5-query", "dimensions": 64}, 400),
        ({"model": "meta/llama-3.1-8b-instruct"}, 404),
    ],
)
async def test_nim_embeds_where_it_knows_what_the_text_is(box: Sandbox, body: dict[str, Any], status: int) -> None:
    said = await send(box, "nim", "POST", "/v1/embeddings", {"input": "llama", **body}, bearer("nim", box))
    assert said.status == status
    assert status != 200 or len(said.json()["data"][0]["embedding"]) == 1024


async def test_nim_takes_no_tools_in_a_stream(box: Sandbox) -> None:
    said = await call(box, "nim", tools=[TOOL], stream=True)
    assert (said.status, said.json()["error"]["message"]) == (400, "Tool calling is not supported in streaming mode!")
    assert (await call(box, "nim", tools=[TOOL], max_tokens=200)).json()["choices"][0]["message"]["tool_calls"]


# ---------------------------------------------------------------------- limits
async def test_limits_run_out_and_groq_says_when_to_come_back(box: Sandbox) -> None:
    box.set("groq", limits={"requests": 2, "requests_period_s": 7200.0})
    seen = [await call(box, "groq") for _ in range(3)]
    assert [s.status for s in seen] == [200, 200, 429]
    assert [s.headers["x-ratelimit-remaining-requests"] for s in seen] == ["1", "0", "0"]
    assert "retry-after" not in seen[1].headers
    assert 3590 <= int(seen[2].headers["retry-after"]) <= 3600
    assert seen[1].headers["x-ratelimit-reset-requests"].startswith("1h59m")
    assert seen[2].json()["error"]["type"] == "requests"


def test_tokens_run_out_and_come_back() -> None:
    limiter = Limiter(Limits(tokens=60, tokens_period_s=60.0), now=0.0)
    assert [limiter.take(25, 0.0) is None for _ in range(3)] == [True, True, False]
    short = limiter.take(25, 0.0)
    assert short is not None
    assert (short.what, short.limit, short.used, short.requested, short.wait_s) == ("tokens", 60, 50, 25, 15.0)
    assert limiter.requests.room(0.0).remaining == Limits().requests - 2  # what is refused takes nothing
    assert limiter.take(25, 15.0) is None
    assert limiter.tokens.room(1000.0) == (60, 60, 0.0)


@given(st.floats(0, 90_000))
def test_durations_are_those_that_go_prints(seconds: float) -> None:
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?([\d.]+)(ms|s)", go_duration(seconds))
    assert parts is not None
    hours, minutes, rest, unit = parts.groups()
    total = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest) * (0.001 if unit == "ms" else 1)
    assert abs(total - seconds) <= 0.0051


async def test_every_cloud_limits_in_its_own_words(box: Sandbox) -> None:
    for cloud, status, words in (
        ("vllm", 503, "Service Unavailable"),
        ("azure", 429, "Please retry after"),
        ("vertex", 429, "RESOURCE_EXHAUSTED"),
        ("databricks", 429, "REQUEST_LIMIT_EXCEEDED: Exceeded workspace"),
        ("nim", 429, "Too Many Requests"),
        ("openai", 429, "rate_limit_exceeded"),
    ):
        box.set(cloud, limits={"requests": 1, "requests_period_s": 7200.0})
        assert (await call(box, cloud)).status == 200
        seen = await call(box, cloud)
        assert (seen.status, words in seen.body.decode()) == (status, True), cloud
