"""Every class of error that the official SDK knows, raised by what the gateway answers."""

from typing import Any

import openai
import pytest

from tests.sdk.conftest import Wire

HELLO: Any = [{"role": "user", "content": "Hello"}]


def body_of(error: openai.APIStatusError) -> dict[str, Any]:
    """The error object, which is whole and always of the same four words."""
    found = error.response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert error.response.headers["x-request-id"] == error.request_id
    return dict(found)


def fails(wire: Wire, kind: type[openai.APIStatusError], model: str = "on-vllm", **fields: Any) -> Any:
    """The error of that class that a call raises."""
    with pytest.raises(openai.APIStatusError) as caught:
        wire.client.chat.completions.create(**{"model": model, "messages": HELLO, "max_tokens": 3, **fields})
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize(
    ("model", "fields", "code", "param", "words"),
    [
        ("on-vllm", {"temperature": -1}, "400", None, "temperature"),
        ("on-groq", {"logprobs": True}, "unsupported_feature", "logprobs", "logprobs"),
        ("on-vllm", {"messages": []}, "invalid_request", None, "messages"),
        ("on-vllm", {"max_tokens": 500_000}, "context_length_exceeded", None, "max_model_len"),
        ("tools-nowhere", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_feature", None,
         "'tools'"),
        ("on-vllm", {"extra_body": {"base_url": "http://evil.test"}}, "invalid_request", "base_url", "base_url"),
        ("on-vllm", {"extra_body": {"api_key": "sk-x"}}, "invalid_request", "api_key", "api_key"),
        ("on-vllm", {"extra_headers": {"x-arriero-timeout-s": "soon"}}, "invalid_request", None, "x-arriero-timeout-s"),
        ("on-vllm", {"extra_headers": {"x-arriero-labels": "a"}}, "invalid_request", None, "x-arriero-labels"),
    ],
)  # fmt: skip
def test_a_fault_of_the_caller_is_a_bad_request(
    wire: Wire, model: str, fields: dict[str, Any], code: str | None, param: str | None, words: str
):
    error = fails(wire, openai.BadRequestError, model, **fields)
    found = body_of(error)
    assert found["code"] == code
    assert words in found["message"]
    assert param is None or found["param"] == param
    assert error.code == code


def test_a_wrong_key_is_an_authentication_error_and_reaches_nobody(wire: Wire):
    stranger = wire.client.with_options(api_key="sk-nobody")
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.chat.completions.create(model="on-vllm", messages=HELLO)
    assert body_of(caught.value)["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.AuthenticationError):
        stranger.models.retrieve("on-vllm")
    assert wire.box.calls() == []


def test_what_a_key_may_not_do_is_permission_denied(wire: Wire):
    narrow = wire.client.with_options(api_key="sk-narrow")
    narrow.chat.completions.create(model="on-vllm", messages=HELLO, max_tokens=1)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        narrow.chat.completions.create(model="on-groq", messages=HELLO)
    assert body_of(caught.value) == {
        "message": "The key 'narrow' may not use 'on-groq'.",
        "type": "permission_error",
        "param": "model",
        "code": "not_allowed",
    }
    with pytest.raises(openai.PermissionDeniedError, match="fixes the label 'region' to 'eu'"):
        narrow.chat.completions.create(model="on-vllm", messages=HELLO, extra_headers={"x-arriero-labels": "region=us"})
    with pytest.raises(openai.PermissionDeniedError):
        narrow.models.retrieve("on-groq")


def test_an_unknown_model_is_not_found_and_near_names_are_said(wire: Wire):
    error = fails(wire, openai.NotFoundError, "on-vlm")
    found = body_of(error)
    assert (found["code"], found["param"]) == ("model_not_found", "model")
    assert "on-vllm" in found["message"]
    with pytest.raises(openai.NotFoundError):
        wire.client.models.retrieve("no/such/model")


def test_near_names_are_only_those_that_the_key_may_use(wire: Wire):
    narrow = wire.client.with_options(api_key="sk-narrow")
    for model in ("on-groqq", "on-vlm", "zebra"):
        with pytest.raises(openai.NotFoundError) as caught:
            narrow.chat.completions.create(model=model, messages=HELLO)
        said = body_of(caught.value)["message"].replace(f"'{model}'", "")
        assert "groq" not in said
        assert "vectors" not in said
    with pytest.raises(openai.NotFoundError, match="Did you mean on-vllm"):
        narrow.chat.completions.create(model="on-vlm", messages=HELLO)


def test_a_path_that_is_not_served_is_not_found(wire: Wire):
    with pytest.raises(openai.NotFoundError) as caught:
        wire.client.responses.create(model="on-vllm", input="Hello")
    assert caught.value.response.json()["error"]["code"] == "not_found"


def test_what_a_cloud_cannot_process_keeps_its_status(wire: Wire):
    wire.box.set("groq", fault={"kind": "status", "status": 422})
    error = fails(wire, openai.UnprocessableEntityError, "on-groq")
    assert body_of(error)["type"] == "invalid_request_error"


def test_a_cloud_that_is_full_is_a_rate_limit_with_its_wait(wire: Wire):
    wire.box.set("groq", fault={"kind": "status", "status": 429, "headers": {"retry-after": "7"}})
    error = fails(wire, openai.RateLimitError, "on-groq")
    assert body_of(error)["code"] == "upstream_rate_limited"
    assert error.response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "status", "status": 500}, 502, "upstream_error"),
        ({"kind": "status", "status": 401}, 502, "upstream_auth"),
        ({"kind": "reset_before"}, 502, "upstream_error"),
        ({"kind": "html"}, 502, "upstream_error"),
        ({"kind": "error_body", "status": 500}, 502, "upstream_error"),
    ],
)
def test_a_cloud_that_fails_is_an_internal_server_error(wire: Wire, fault: dict[str, Any], status: int, code: str):
    wire.box.set("groq", fault=fault)
    error = fails(wire, openai.InternalServerError, "on-groq")
    found = body_of(error)
    assert (error.status_code, found["code"]) == (status, code)
    assert "groq" in found["message"]
    assert "gsk_" not in error.response.text


def test_our_deadline_is_a_504_and_the_callers_own_a_timeout(wire: Wire):
    wire.box.set("groq", fault={"kind": "silent"})
    error = fails(wire, openai.InternalServerError, "on-groq", extra_headers={"x-arriero-timeout-s": "0.2"})
    assert (error.status_code, body_of(error)["code"]) == (504, "upstream_timeout")
    with pytest.raises(openai.APITimeoutError):
        wire.client.with_options(timeout=0.2).chat.completions.create(model="on-groq", messages=HELLO)


def test_a_body_beyond_the_limit_is_refused_by_its_size(wire: Wire):
    with pytest.raises(openai.APIStatusError) as caught:
        wire.client.chat.completions.create(model="on-vllm", messages=[{"role": "user", "content": "x" * (33 << 20)}])
    assert caught.value.status_code == 413
    assert body_of(caught.value)["code"] == "request_too_large"


def test_a_stream_that_fails_before_its_first_word_is_a_status(wire: Wire):
    wire.box.set("groq", fault={"kind": "error_event", "status": 500})
    error = fails(wire, openai.InternalServerError, "on-groq", stream=True)
    assert error.status_code == 502


@pytest.mark.parametrize("kind", ["close_after_tokens", "reset_after_tokens", "error_event"])
def test_a_stream_that_breaks_raises_after_what_came(wire: Wire, kind: str):
    plain = wire.client.chat.completions.create(model="on-groq", messages=HELLO, max_tokens=20)
    wire.box.set("groq", fault={"kind": kind, "after_tokens": 5})
    text = ""
    stream = wire.client.chat.completions.create(model="on-groq", messages=HELLO, max_tokens=20, stream=True)
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012  (it is the loop that raises)
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert caught.value.code == "stream_incomplete"
    assert "The answer is incomplete." in caught.value.message
    assert text
    assert (plain.choices[0].message.content or "").startswith(text)


def test_another_cloud_answers_where_one_fails(wire: Wire):
    wire.box.set("nim", fault={"kind": "status", "status": 500})
    raw = wire.client.chat.completions.with_raw_response.create(model="pair", messages=HELLO, max_tokens=5)
    assert raw.parse().model == "pair"
    assert raw.headers["x-arriero-deployment"] == "vertex"
    assert raw.headers["x-arriero-attempts"] == "2"
    assert [call["cloud"] for call in wire.box.calls()] == ["nim", "vertex"]
