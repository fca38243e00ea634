"""Plain answers of Oracle in OpenAI's form: reasons, texts, calls, log probabilities, usage, and what is no answer."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from gateway.errors import UpstreamError
from gateway.outcome import judge
from providers._oci_answer import FINISHES, Asked, Usage, created_of, usage_of, whole
from tests.oci.calls import patient

ASKED = Asked("chatcmpl-1", 1_700_000_000, "meta.llama-3.3-70b-instruct")
USAGE = {"completionTokens": 2, "promptTokens": 5, "totalTokens": 7}


def choice(text: str | None = "Hi", finish: str = "stop", index: int = 0, **message: Any) -> dict[str, Any]:
    content = {} if text is None else {"content": [{"type": "TEXT", "text": text}]}
    return {"index": index, "finishReason": finish, "message": {"role": "ASSISTANT", **content, **message}}


def answer(*choices: dict[str, Any], usage: Any = USAGE, **chat: Any) -> bytes:
    response = {"apiFormat": "GENERIC", "timeCreated": "2025-09-18T10:22:38.123Z", "choices": list(choices), **chat}
    if usage is not None:
        response["usage"] = usage
    return json.dumps({"modelId": "m", "modelVersion": "1.0.0", "chatResponse": response}).encode()


def told(raw: bytes, asked: Asked = ASKED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(whole(raw, asked, {}))
    ChatCompletion.model_validate(found)
    return found


def failed(raw: bytes) -> UpstreamError:
    with pytest.raises(UpstreamError) as error:
        whole(raw, ASKED, {})
    return error.value


def test_a_text_is_a_completion() -> None:
    assert told(answer(choice("Hi"))) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1758190958,
        "model": "meta.llama-3.3-70b-instruct",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }


def test_the_text_keeps_its_bytes() -> None:
    text = b'"\\u00e9\\/\\ud83e\\udd99 \xc3\xb1"'
    message = b'{"content":[{"type":"TEXT","text":%b}]}' % text
    raw = b'{"chatResponse":{"choices":[{"message":%b,"finishReason":"stop"}]}}' % message
    assert b'"content":' + text in whole(raw, ASKED, {})


def test_parts_are_one_text_and_a_bare_text_is_a_text() -> None:
    parts = [{"type": "TEXT", "text": "a\n"}, {"type": "TEXT", "text": "b"}]
    assert told(answer(choice(None, content=parts)))["choices"][0]["message"]["content"] == "a\nb"
    assert told(answer(choice(None, content="ab")))["choices"][0]["message"]["content"] == "ab"


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": []}, {"content": ""}])
def test_an_empty_answer_has_empty_content(content: dict[str, Any]) -> None:
    found = told(answer(choice(None, toolCalls=[], **content)))
    assert found["choices"][0]["message"] == {"role": "assistant", "content": "", "refusal": None}


def test_tool_calls_with_and_without_text() -> None:
    calls = [{"type": "FUNCTION", "id": "c1", "name": "f", "arguments": '{"a": 1}'}]
    (bare,) = told(answer(choice(None, "tool_calls", toolCalls=calls)))["choices"]
    assert bare["finish_reason"] == "tool_calls"
    assert bare["message"]["content"] is None
    assert bare["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    (both,) = told(answer(choice("Let me look.", "tool_calls", toolCalls=calls)))["choices"]
    assert both["message"]["content"] == "Let me look."
    assert both["message"]["tool_calls"]


def test_calls_without_an_id_get_one_each_and_arguments_that_are_an_object_become_text() -> None:
    calls = [{"name": "f", "arguments": {"a": 0.10}}, {"name": "g"}]
    raw = answer(choice(None, "tool_calls", toolCalls=calls)).replace(b'"a": 0.1', b'"a": 0.10')
    first, second = told(raw)["choices"][0]["message"]["tool_calls"]
    assert first["function"]["arguments"] == '{"a": 0.10}'
    assert second["function"]["arguments"] == ""
    assert first["id"] != second["id"]
    assert first["id"] == told(raw)["choices"][0]["message"]["tool_calls"][0]["id"]


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("STOP", "stop"),
        ("COMPLETE", "stop"),
        ("MAX_TOKENS", "length"),
        ("TOOL_CALL", "tool_calls"),
        ("TOOL_CALLS", "tool_calls"),
        ("CONTENT_FILTERED", "content_filter"),
        ("ERROR_TOXIC", "content_filter"),
        ("ERROR_LIMIT", "length"),
    ],
)
def test_reasons_in_either_case(said: str, wanted: str) -> None:
    degraded: dict[str, Any] = {}
    found = json.loads(whole(answer(choice(finish=said)), ASKED, degraded))
    assert found["choices"][0]["finish_reason"] == wanted
    assert degraded == {}
    assert "native_finish_reason" not in found["choices"][0]


def test_only_openais_words_come_out() -> None:
    assert set(FINISHES.values()) == {"stop", "length", "tool_calls", "content_filter"}


def test_an_unknown_reason_is_a_stop_and_is_told() -> None:
    degraded: dict[str, Any] = {}
    found = json.loads(whole(answer(choice(finish="WEIRD")), ASKED, degraded))["choices"][0]
    assert (found["finish_reason"], found["native_finish_reason"]) == ("stop", "WEIRD")
    assert degraded == {"finish_reason": "emulated"}
    calls = [{"id": "c", "name": "f", "arguments": "{}"}]
    found = json.loads(whole(answer(choice(finish="WEIRD", toolCalls=calls)), ASKED, {}))["choices"][0]
    assert found["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("reason", ["ERROR", "error", "USER_CANCEL"])
def test_a_reason_that_is_a_failure_is_no_answer(reason: str) -> None:
    error = failed(answer(choice(finish=reason)))
    assert judge(error).retry


def test_every_choice_comes_back() -> None:
    found = told(answer(choice("a", index=0), choice("b", "length", index=1)))["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in found] == [
        (0, "a", "stop"),
        (1, "b", "length"),
    ]


def test_logprobs_come_back_as_openai_has_them() -> None:
    given_ = {
        "tokens": ["Hé", "!"],
        "tokenLogprobs": [-0.25, -1.5],
        "textOffset": [0, 2],
        "topLogprobs": [{"Hé": "-0.25", "Ho": "-2.5", "Ha": "-1.0"}, {"!": -1.5}],
    }
    raw = answer({**choice("Hé!"), "logprobs": given_})
    found = told(raw, ASKED._replace(top_logprobs=2))["choices"][0]["logprobs"]["content"]
    assert found[0] == {
        "token": "Hé",
        "logprob": -0.25,
        "bytes": [72, 195, 169],
        "top_logprobs": [
            {"token": "Hé", "logprob": -0.25, "bytes": [72, 195, 169]},
            {"token": "Ha", "logprob": -1.0, "bytes": [72, 97]},
        ],
    }
    assert [one["token"] for one in found] == ["Hé", "!"]
    assert told(raw, ASKED._replace(top_logprobs=0))["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert told(raw)["choices"][0]["logprobs"] is None
    assert told(answer({**choice(), "logprobs": {}}), ASKED._replace(top_logprobs=2))["choices"][0]["logprobs"] is None


def test_usage_with_details_and_with_parts_missing() -> None:
    details = {"promptTokensDetails": {"cachedTokens": 3}, "completionTokensDetails": {"reasoningTokens": 1}}
    found = told(answer(choice(), usage={**USAGE, **details}))["usage"]
    assert found["prompt_tokens_details"] == {"cached_tokens": 3}
    assert found["completion_tokens_details"] == {"reasoning_tokens": 1}
    absent = {"promptTokensDetails": None, "completionTokensDetails": {}}
    assert told(answer(choice(), usage={**USAGE, **absent}))["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
    }
    assert told(answer(choice(), usage={"promptTokens": 5, "totalTokens": 7}))["usage"]["completion_tokens"] == 2
    assert "usage" not in told(answer(choice(), usage=None))


def test_characters_are_told_where_they_are_billed() -> None:
    asked = ASKED._replace(prompt_characters=11)
    calls = [{"id": "c", "name": "f", "arguments": '{"é":1}'}]
    found = told(answer(choice("né\n", toolCalls=calls), choice("x", index=1)), asked)["usage"]
    assert (found["prompt_characters"], found["completion_characters"]) == (11, 3 + 7 + 1)
    assert "prompt_characters" not in told(answer(choice()))["usage"]


def test_reasoning_and_refusals_are_passed_on() -> None:
    found = told(answer(choice(reasoningContent="hm", refusal="no")))["choices"][0]["message"]
    assert (found["reasoning_content"], found["refusal"]) == ("hm", "no")


def test_the_time_is_oracles_or_ours() -> None:
    assert created_of("2025-09-18T10:22:38Z", 1) == 1758190958
    assert created_of("2025-09-18T12:22:38.5+02:00", 1) == 1758190958
    assert (created_of("soon", 1), created_of(None, 1)) == (1, 1)


@pytest.mark.parametrize(
    ("raw", "kind", "outcome"),
    [
        (b'{"code":"429","message":"busy"}', "error_body", "rate_limited"),
        (b'{"code":"TooManyRequests","message":"busy"}', "error_body", "rate_limited"),
        (b'{"code":"InternalServerError","message":"oops"}', "error_body", "server_error"),
        (b'{"error":{"code":503,"message":"oops"}}', "error_body", "overloaded"),
        (b'{"error":"oops"}', "error_body", "server_error"),
        (b'{"message":"oops"}', "error_body", "server_error"),
        (b'{"chatResponse":{"choices":[]}}', "empty", "empty"),
        (b'{"chatResponse":null}', "empty", "empty"),
        (b"{}", "empty", "empty"),
        (b"", "not_json", "not_json"),
        (b"<html>", "not_json", "not_json"),
        (b'{"chatResponse":', "not_json", "not_json"),
        (b"\xff", "not_json", "not_json"),
        (b"[1]", "shape", "shape"),
        (b'{"chatResponse":{"choices":{"0":{}}}}', "shape", "shape"),
        (b'{"chatResponse":{"choices":[{"message":{"content":7}}]}}', "shape", "shape"),
        (b'{"new":' + b"[" * 100_000, "not_json", "not_json"),
    ],
)
def test_what_is_no_answer_is_a_failure_with_its_own_name(raw: bytes, kind: str, outcome: str) -> None:
    error = failed(raw)
    assert (error.kind, judge(error).name) == (kind, outcome)


KEYS = "chatResponse choices message content text toolCalls finishReason usage logprobs tokens index code error"
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(KEYS.split()),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@patient
@given(JSON)
def test_whatever_comes_is_an_answer_or_an_upstream_error(value: Any) -> None:
    try:
        found = whole(json.dumps(value).encode(), ASKED._replace(top_logprobs=1), {})
    except UpstreamError:
        return
    json.loads(found)


@patient
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_usage_adds_up_whatever_is_missing(prompt: int, output: int) -> None:
    for said in (
        {"promptTokens": prompt, "completionTokens": output},
        {"promptTokens": prompt, "totalTokens": prompt + output},
    ):
        found = usage_of(msgspec.convert(said, Usage), None, 0)
        assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (prompt, output, prompt + output)
