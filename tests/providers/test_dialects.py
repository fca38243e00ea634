"""What each OpenAI-shaped cloud says differently, read and written without a socket."""

import json
from pathlib import Path

import pytest

from gateway.config import loading, yaml_file
from gateway.errors import ConfigError
from gateway.peek import peek
from gateway.types import FEATURES, Call, Deployment, Missing, Tenant
from providers.openai import OpenAI, read_detail, read_room
from providers.vllm import read_load, read_metrics

GOLDEN = Path(__file__).parents[1] / "golden"


def account(text: str) -> OpenAI:
    found = loading.account(yaml_file.parse(text), "providers.x")
    assert isinstance(found, OpenAI)
    return found


def deployment(model: str = "llama", adapter: str | None = None, missing: Missing = "emulate") -> Deployment:
    """Of weights that can do everything."""
    features = frozenset(FEATURES)
    return Deployment(
        name="x", account="x", cloud="x", model=model, adapter=adapter, missing=missing, features=features
    )


def call(body: dict[str, object]) -> Call:
    raw = json.dumps(body).encode()
    peeked = peek(raw, "chat/completions")
    return Call(
        id="r",
        tenant=Tenant("t"),
        route="r",
        model=peeked.model,
        endpoint="chat/completions",
        stream=peeked.stream,
        features=peeked.features,
        stop_count=peeked.stop_count,
        choices=peeked.choices,
        include_usage=peeked.include_usage,
        body=raw,
        fields=peeked.fields,
    )


AZURE = "type: azure\napi_key: s3cret\nurl: "


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("type: openai", "https://api.openai.com/v1/chat/completions"),
        ("type: openai\nurl: http://host:1/v1/", "http://host:1/v1/chat/completions"),
        ("type: groq\napi_key: s3cret", "https://api.groq.com/openai/v1/chat/completions"),
        ("type: vllm\nurl: http://vllm:8000/v1", "http://vllm:8000/v1/chat/completions"),
        ("type: nim\napi_key: s3cret", "https://integrate.api.nvidia.com/v1/chat/completions"),
        (
            "type: databricks\napi_key: s3cret\nurl: https://w.cloud.databricks.com",
            "https://w.cloud.databricks.com/serving-endpoints/chat/completions",
        ),
        (
            "type: databricks\napi_key: s3cret\nurl: https://w.cloud.databricks.com/serving-endpoints/",
            "https://w.cloud.databricks.com/serving-endpoints/chat/completions",
        ),
        (
            "type: vertex\nproject: acme\nlocation: us-central1\ntoken: t",
            "https://us-central1-aiplatform.googleapis.com/v1/projects/acme/locations/us-central1/endpoints/openapi"
            "/chat/completions",
        ),
        (
            "type: vertex\nproject: acme\nlocation: global\ntoken: t",
            "https://aiplatform.googleapis.com/v1/projects/acme/locations/global/endpoints/openapi/chat/completions",
        ),
        (
            "type: vertex\nproject: acme\nlocation: eu\ntoken: t",
            "https://aiplatform.eu.rep.googleapis.com/v1/projects/acme/locations/eu/endpoints/openapi/chat/completions",
        ),
        (
            AZURE + "https://acme.services.ai.azure.com",
            "https://acme.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            AZURE + "https://acme.services.ai.azure.com/models/",
            "https://acme.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            AZURE + "https://acme.services.ai.azure.com/openai/v1",
            "https://acme.services.ai.azure.com/openai/v1/chat/completions",
        ),
        (
            AZURE + "https://acme.eastus2.models.ai.azure.com",
            "https://acme.eastus2.models.ai.azure.com/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            AZURE + "https://acme.eastus2.inference.ai.azure.com",
            "https://acme.eastus2.inference.ai.azure.com/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            AZURE + "https://acme.openai.azure.com\napi_version: 2025-01-01",
            "https://acme.openai.azure.com/openai/deployments/llama/chat/completions?api-version=2025-01-01",
        ),
        (
            AZURE + "https://acme.openai.azure.us",
            "https://acme.openai.azure.us/openai/deployments/llama/chat/completions?api-version=2024-10-21",
        ),
        (
            AZURE + "https://acme.chinanorth3.models.ai.azure.cn",
            "https://acme.chinanorth3.models.ai.azure.cn/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            AZURE + "https://acme.services.ai.azure.us",
            "https://acme.services.ai.azure.us/models/chat/completions?api-version=2024-05-01-preview",
        ),
        (
            AZURE + "http://proxy:9\nform: deployments",
            "http://proxy:9/openai/deployments/llama/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_a_call_goes_to_the_clouds_own_path(text: str, url: str) -> None:
    found = account(text.replace("2025-01-01", "'2025-01-01'"))
    origin = found.base_url().split("/", 3)
    assert "/".join(origin[:3]) + found.target(deployment(), "chat/completions") == url


def test_a_model_in_a_path_is_escaped() -> None:
    found = account(AZURE + "https://acme.openai.azure.com")
    assert found.target(deployment("../../x?y"), "chat/completions").startswith("/openai/deployments/..%2F..%2Fx%3Fy/")


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("type: groq\napi_key: s3cret", ("authorization", "Bearer s3cret")),
        ("type: vllm\nurl: http://v/v1\napi_key: s3cret", ("authorization", "Bearer s3cret")),
        (AZURE + "https://a.services.ai.azure.com", ("api-key", "s3cret")),
        (AZURE + "https://a.services.ai.azure.com\nauth: bearer", ("authorization", "Bearer s3cret")),
        ("type: azure\nurl: https://a.services.ai.azure.com\ntoken: jwt", ("authorization", "Bearer jwt")),
        ("type: vertex\nproject: p\ntoken: ya29", ("authorization", "Bearer ya29")),
    ],
)
def test_the_credential_goes_where_the_cloud_wants_it(text: str, header: tuple[str, str]) -> None:
    found = account(text)
    credentials = [h for h in found.headers() if h[0] in ("authorization", "api-key")]
    assert credentials == [header]
    assert header[1].removeprefix("Bearer ") in found.secrets()
    assert header[1].removeprefix("Bearer ") not in repr(found)


def test_a_token_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    from gateway.secret import Secret

    class Now:
        seconds = 0.0

    file = tmp_path / "token"
    file.write_text("first\n")
    secret = Secret(f"file:{file}", clock=lambda: Now.seconds)
    file.write_text("second\n")
    assert secret.reveal() == "first", "looked at no more than once a second"
    Now.seconds = 1.5
    assert secret.reveal() == "second"
    file.unlink()
    Now.seconds = 3.0
    assert secret.reveal() == "second", "a file that vanished keeps its last text"


def test_azure_wants_its_header_for_fields_it_does_not_know() -> None:
    assert ("extra-parameters", "pass-through") in account(AZURE + "https://a.services.ai.azure.com").headers()
    assert "extra-parameters" not in dict(account(AZURE + "https://a.openai.azure.com").headers())
    strict = account(AZURE + "https://a.services.ai.azure.com\nextra_parameters: error")
    hello = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    assert strict.changes(call(hello), deployment())["stream_options"] is None


def test_usage_is_asked_for_in_every_stream_unless_the_server_refuses_that() -> None:
    hello = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    assert account("type: openai").changes(call(hello), deployment())["stream_options"] == b'{"include_usage":true}'
    assert account("type: openai\nstream_usage: false").changes(call(hello), deployment())["stream_options"] is None
    plain = {**hello, "stream": False}
    assert account("type: openai").changes(call(plain), deployment()) == {"model": b'"llama"'}


def test_an_adapter_is_called_by_its_own_name() -> None:
    hello = call({"model": "m", "messages": [{"role": "user", "content": "x"}]})
    assert account("type: vllm").changes(hello, deployment(adapter="my-lora"))["model"] == b'"my-lora"'


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error":{"message":"no","type":"t","param":"p","code":"c"}}', "no", "c"),
        (b'{"error":"Unauthorized"}', "Unauthorized", None),  # vLLM's 401
        (
            b'[{"error":{"code":429,"message":"Resource exhausted","status":"RESOURCE_EXHAUSTED"}}]',
            "Resource exhausted",
            429,
        ),
        (b'{"status":422,"code":"parameter_not_supported","message":"no"}', "no", "parameter_not_supported"),
        (b'{"error_code":"REQUEST_LIMIT_EXCEEDED","message":"slow down"}', "slow down", "REQUEST_LIMIT_EXCEEDED"),
        (b'{"detail":"Not Found"}', "Not Found", None),
        (b"<html>", "", None),
        (b"", "", None),
        (b"[]", "", None),
        (b'{"error":null}', "", None),
        (b'{"error":{"message":7,"code":[1]}}', "", None),
        (b"\xff\xfe", "", None),
    ],
)
def test_every_clouds_error_is_read_into_openais_words(body: bytes, message: str, code: str | int | None) -> None:
    found = read_detail(body)
    assert (found.message, found.code) == (message, code)


def test_rate_limit_headers_become_room() -> None:
    headers = {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-remaining-requests": "7200",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-limit-tokens": "18000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "430ms",
    }
    room = read_room(headers, 100.0)
    assert room is not None
    assert (room.requests_left, room.tokens_left) == (0.5, 0.0)
    assert room.requests_reset == pytest.approx(279.56)
    assert room.tokens_reset == pytest.approx(100.43)
    assert read_room({}, 100.0) is None


@pytest.mark.parametrize("value", ["-1", "nan", "x", "", "1e999"])
def test_nonsense_in_rate_limit_headers_says_nothing(value: str) -> None:
    room = read_room({"x-ratelimit-limit-tokens": value, "x-ratelimit-remaining-tokens": value}, 1.0)
    assert room is None or room.tokens_left == 1.0


def test_vllm_tells_its_load() -> None:
    assert read_load('JSON {"named_metrics":{"num_requests_waiting":3.0,"kv_cache_usage_perc":0.5}}') == (3, 0.5)
    assert read_load("TEXT nonsense") == (None, None)
    metrics = json.loads(next(GOLDEN.rglob("metrics.json")).read_text())["response"]["body"]
    found = read_metrics(metrics)
    assert (found.queue, found.kv_used) == (0, 0.0)
    older = read_metrics('vllm:gpu_cache_usage_perc{model_name="m"} 0.75\n')
    assert (older.queue, older.kv_used) == (None, 0.75)
    assert read_metrics("vllm:num_requests_waiting nonsense\n").queue is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("type: azure\napi_key: k", "'url' is missing"),
        ("type: azure\nurl: https://a", "needs one of 'api_key', 'token' and 'entra'"),
        ("type: vertex\ntoken: t", "'project' is missing"),
        ("type: databricks\nurl: https://a\nclient_id: c", "'client_id' and 'client_secret' go together"),
        ("type: databricks\napi_key: k", "'url' is missing"),
    ],
)
def test_what_an_account_lacks_is_named(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"providers.x: .*{reason}"):
        account(text)
