"""Converse's answers in OpenAI's form: whole and streamed, by example and by OpenAI's own models."""

import itertools
import json
import random
from typing import Any

import botocore.session
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.errors import UpstreamError
from gateway.outcome import judge
from providers import _bedrock_errors as errors
from providers._bedrock_answer import FINISH_REASONS, Stream, completion
from providers._completion import Chunks, stream_bytes, whole_bytes
from providers._emulation import Identity
from tests.bedrock.frames import encode, event, exception

IDENTITY = Identity("chatcmpl-1", 5, "llama")
SERVICE = botocore.session.get_session().get_service_model("bedrock-runtime")
MODELLED = [shape.name for shape in SERVICE.operation_model("Converse").error_shapes]
IN_STREAM = [name for name in SERVICE.shape_for("ConverseStreamOutput").members if name.endswith("Exception")]


def answered(content: list[Any], reason: str = "end_turn", **fields: Any) -> dict[str, Any]:
    usage = {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}
    body = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": reason, "usage": usage}
    return {**body, "metrics": {"latencyMs": 7}, **fields}


def whole(content: list[Any], reason: str = "end_turn", **fields: Any) -> dict[str, Any]:
    """The OpenAI body of a Converse answer; valid by OpenAI's own model, and the same when it is streamed."""
    raw = json.dumps(answered(content, reason, **fields)).encode()
    found = completion(raw, IDENTITY)
    body: dict[str, Any] = json.loads(whole_bytes(found))
    ChatCompletion.model_validate(body)
    assert list(body)[:5] == ["id", "object", "created", "model", "choices"]
    chunks = [json.loads(line[6:]) for line in stream_bytes(found).decode().split("\n\n") if line.startswith("data: {")]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return body


def call_of(id_: str, name: str, given: Any) -> dict[str, Any]:
    return {"toolUse": {"toolUseId": id_, "name": name, "input": given}}


# ---------------------------------------------------------------------- whole
def test_text_usage_and_reason() -> None:
    body = whole([{"text": "Hello"}, {"text": " you 🦙"}])
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello you 🦙", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert (body["id"], body["created"], body["model"]) == IDENTITY


def test_several_calls_beside_a_text() -> None:
    body = whole([{"text": "See:"}, call_of("tooluse_1", "a", {"x": 1}), call_of("tooluse_2", "b", {})], "tool_use")
    message = body["choices"][0]["message"]
    assert message["content"] == "See:"
    assert [c["id"] for c in message["tool_calls"]] == ["tooluse_1", "tooluse_2"]
    assert [json.loads(c["function"]["arguments"]) for c in message["tool_calls"]] == [{"x": 1}, {}]
    assert body["choices"][0]["finish_reason"] == "tool_calls"
    assert whole([call_of("t", "a", {})], "tool_use")["choices"][0]["message"]["content"] is None


def test_arguments_are_the_bytes_that_bedrock_sent() -> None:
    raw = json.dumps(answered([call_of("t", "f", 0)], "tool_use")).encode()
    given = b'{"n": 123456789012345678901234567890, "f": 1.10, "s": "\\u00e9"}'
    found = completion(raw.replace(b'"input": 0', b'"input": ' + given), IDENTITY)
    assert (
        json.loads(whole_bytes(found))["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
        == given.decode()
    )


def test_a_call_with_an_ordinary_end_is_an_end_for_the_call() -> None:
    assert whole([call_of("t", "a", {})], "end_turn")["choices"][0]["finish_reason"] == "tool_calls"
    assert whole([call_of("t", "a", {})], "max_tokens")["choices"][0]["finish_reason"] == "length"


def test_every_reason_to_stop_that_botocore_knows_is_mapped_or_a_fault() -> None:
    known = set(SERVICE.shape_for("StopReason").enum)
    assert set(FINISH_REASONS) <= known
    for reason in known:
        if reason in FINISH_REASONS:
            assert whole([{"text": "x"}], reason)["choices"][0]["finish_reason"] == FINISH_REASONS[reason]
        else:
            assert reason.startswith("malformed_")
            assert judge(fault_of(answered([{"text": "x"}], reason))).retry


def test_a_reason_that_is_not_known_is_not_called_a_stop() -> None:
    assert fault_of(answered([], "later_reason")).kind == "shape"


def test_the_prompt_counts_what_came_from_the_cache_and_went_into_it() -> None:
    usage = {
        "inputTokens": 3,
        "outputTokens": 2,
        "totalTokens": 35,
        "cacheReadInputTokens": 20,
        "cacheWriteInputTokens": 10,
    }
    found = whole([{"text": "x"}], usage=usage)["usage"]
    details = {"cached_tokens": 20}
    assert found == {
        "prompt_tokens": 33, "completion_tokens": 2, "total_tokens": 35, "prompt_tokens_details": details
    }  # fmt: skip


def test_thoughts_citations_and_a_guardrails_trace_are_kept() -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}}
    cited = {"citationsContent": {"content": [{"text": "As said."}], "citations": []}}
    body = whole([thought, cited], trace={"guardrail": {"actionReason": "NONE"}})
    assert body["choices"][0]["message"]["reasoning_content"] == "Hm."
    assert body["choices"][0]["message"]["content"] == "As said."
    assert body["trace"] == {"guardrail": {"actionReason": "NONE"}}


def test_an_empty_answer_is_an_empty_text() -> None:
    assert whole([])["choices"][0]["message"]["content"] == ""


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "empty"),
        (b"<html>", "not_json"),
        (b'{"message":"no"}', "shape"),
        (b"[]", "shape"),
        (b"\xff\xfe", "not_json"),
    ],
)
def test_what_is_no_answer_is_a_fault_of_the_cloud(raw: bytes, kind: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        completion(raw, IDENTITY)
    assert caught.value.kind == kind


def fault_of(body: dict[str, Any]) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        completion(json.dumps(body).encode(), IDENTITY)
    return caught.value


# ---------------------------------------------------------------------- streamed
def frame(kind: str, **payload: Any) -> bytes:
    return event(kind, json.dumps({**payload, "p": "abcdef"}).encode())


def delta(index: int = 0, **fields: Any) -> bytes:
    return frame("contentBlockDelta", contentBlockIndex=index, delta=fields)


START = frame("messageStart", role="assistant")
STOP = frame("messageStop", stopReason="end_turn")
METADATA = frame("metadata", usage={"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, metrics={"latencyMs": 1})


def streamed(data: bytes, *, at: list[int] | None = None, stops: tuple[str, ...] = ()) -> tuple[list[Any], Stream]:
    """The chunks ([DONE] among them) of a stream's bytes, cut at those places."""
    stream = Stream(Chunks(*IDENTITY, stops))
    cuts = [0, *sorted(at or []), len(data)]
    out = b"".join(stream.feed(data[a:b]) for a, b in itertools.pairwise(cuts)) + stream.end()
    assert out == b"" or out.endswith(b"\n\n")
    events = [e.removeprefix("data: ") for e in out.decode().split("\n\n")[:-1]]
    chunks = [e if e == "[DONE]" else json.loads(e) for e in events]
    for chunk in chunks:
        if chunk != "[DONE]":
            ChatCompletionChunk.model_validate(chunk)
    return chunks, stream


def deltas(chunks: list[Any]) -> list[Any]:
    return [c["choices"][0]["delta"] for c in chunks if c != "[DONE]" and c["choices"]]


def finishes(chunks: list[Any]) -> list[str]:
    reasons = [c["choices"][0]["finish_reason"] for c in chunks if c != "[DONE]" and c["choices"]]
    return [reason for reason in reasons if reason]


def test_a_streamed_text_however_it_is_cut() -> None:
    data = (
        START
        + delta(text="Hel")
        + delta(text='lo\n"🦙"')
        + frame("contentBlockStop", contentBlockIndex=0)
        + STOP
        + METADATA
    )
    wanted, stream = streamed(data)
    assert stream.fault is None
    assert "".join(d.get("content", "") for d in deltas(wanted)) == 'Hello\n"🦙"'
    assert deltas(wanted)[0]["role"] == "assistant"
    assert finishes(wanted) == ["stop"]
    assert wanted[-2]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert wanted[-2]["choices"] == []
    assert wanted[-1] == "[DONE]"
    rng = random.Random(3)
    for _ in range(200):
        assert streamed(data, at=[rng.randrange(len(data)) for _ in range(rng.randrange(40))])[0] == wanted


def test_streamed_calls_have_their_own_places_ids_and_arguments() -> None:
    data = START + delta(text="I see.") + frame("contentBlockStop", contentBlockIndex=0)
    for block, name in ((1, "a"), (3, "b"), (5, "c")):
        use = {"toolUse": {"toolUseId": f"tooluse_{block}", "name": name}}
        data += frame("contentBlockStart", contentBlockIndex=block, start=use)
        if name != "c":
            data += (
                delta(block, toolUse={"input": ""})
                + delta(block, toolUse={"input": '{"x":'})
                + delta(block, toolUse={"input": "1}"})
            )
        data += frame("contentBlockStop", contentBlockIndex=block)
    chunks, stream = streamed(data + frame("messageStop", stopReason="tool_use") + METADATA)
    assert stream.fault is None
    found: dict[int, dict[str, str]] = {}
    for one in [call for d in deltas(chunks) for call in d.get("tool_calls", ())]:
        made = found.setdefault(one["index"], {"arguments": ""})
        made |= {name: one[name] for name in ("id",) if name in one}
        made["arguments"] += one["function"]["arguments"]
    assert found == {
        0: {"id": "tooluse_1", "arguments": '{"x":1}'},
        1: {"id": "tooluse_3", "arguments": '{"x":1}'},
        2: {"id": "tooluse_5", "arguments": "{}"},
    }
    assert finishes(chunks) == ["tool_calls"]


def test_b25_what_is_said_twice_or_out_of_order_is_told_once_and_in_its_place() -> None:
    starts = [
        frame("contentBlockStart", contentBlockIndex=at, start={"toolUse": {"toolUseId": f"t{at}", "name": "f"}})
        for at in (0, 1, 2)
    ]
    pieces = [
        delta(1, toolUse={"input": '{"b"'}),
        delta(0, toolUse={"input": '{"a"'}),
        delta(1, toolUse={"input": ":1}"}),
    ]
    pieces.append(delta(0, toolUse={"input": ":0}"}))
    ends = [frame("contentBlockStop", contentBlockIndex=at) for at in (2, 0, 1)]
    last = [frame("messageStop", stopReason="tool_use"), METADATA]
    once = streamed(b"".join([START, *starts, *pieces, *ends, *last]))[0]
    twice = streamed(b"".join([START, *starts * 2, *pieces, *ends * 2, last[0] * 2, last[1] * 2]))[0]
    assert twice[: twice.index("[DONE]") + 1] == once
    found: dict[int, str] = {}
    for call in [call for d in deltas(once) for call in d.get("tool_calls", ())]:
        found[call["index"]] = found.get(call["index"], "") + call["function"]["arguments"]
    assert found == {0: '{"a":0}', 1: '{"b":1}', 2: "{}"}
    assert finishes(once) == ["tool_calls"]


def test_a_stop_string_that_bedrock_does_not_know_ends_the_stream_here_and_usage_still_comes() -> None:
    data = START + b"".join(delta(text=t) for t in ("one ", "ST", "OP", " two")) + STOP + METADATA
    chunks, _ = streamed(data, stops=("STOP",))
    assert "".join(d.get("content", "") for d in deltas(chunks)) == "one "
    assert finishes(chunks) == ["stop"]
    assert chunks[-2]["usage"]["completion_tokens"] == 2


def test_events_and_fields_of_a_later_version_are_passed_over() -> None:
    data = START + frame("laterEvent", x=1) + delta(text="x", later=[1]) + delta(later={}) + STOP + METADATA
    chunks, stream = streamed(data)
    assert stream.fault is None
    assert finishes(chunks) == ["stop"]


def test_a_stream_that_ends_before_its_reason_has_no_done() -> None:
    assert "[DONE]" not in streamed(START + delta(text="x"))[0]
    assert streamed(START + delta(text="x") + STOP)[0][-1] == "[DONE]"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (event("contentBlockDelta", b'{"delta":{"text":7}}'), "shape"),
        (event("contentBlockDelta", b'{"delta":{"text":"\xff"}}'), "shape"),
        (event("contentBlockDelta", b'{"delta":'), "shape"),
        (delta(toolUse={"input": "{}"}), "shape"),
        (frame("messageStop", stopReason="malformed_tool_use"), "shape"),
        (encode({":message-type": (7, "other")}, b"{}"), "protocol"),
        (START[:-1], "closed"),
        (START[:-1] + b"x", "protocol"),
    ],
)
def test_a_bad_event_is_a_fault_after_what_came_before_it(data: bytes, kind: str) -> None:
    chunks, stream = streamed(START + delta(text="x") + data)
    assert stream.fault is not None
    assert stream.fault.kind == kind
    assert "".join(d.get("content", "") for d in deltas(chunks)) == "x"
    assert "[DONE]" not in chunks


# ---------------------------------------------------------------------- exceptions
WANTED = {
    "AccessDeniedException": "auth",
    "InternalServerException": "server_error",
    "ModelErrorException": "server_error",
    "ModelNotReadyException": "overloaded",
    "ModelStreamErrorException": "server_error",
    "ModelTimeoutException": "timeout",
    "ResourceNotFoundException": "model_gone",
    "ServiceUnavailableException": "overloaded",
    "ThrottlingException": "rate_limited",
    "ValidationException": "caller_error",
}


def refused(name: str, status: int, message: str = "Said by the cloud.") -> UpstreamError:
    where = "http://internal.amazon.com/coral/com.amazon.bedrock/"
    return errors.refused(status, {"x-amzn-errortype": f"{name}:{where}"}, json.dumps({"message": message}).encode())


@pytest.mark.parametrize("name", MODELLED)
def test_every_modelled_exception_before_a_stream_has_its_outcome(name: str) -> None:
    shape = SERVICE.shape_for(name)
    found = refused(name, shape.metadata["error"]["httpStatusCode"])
    assert judge(found).name == WANTED[name]
    assert name in found.message
    assert "Said by the cloud" not in found.message


@pytest.mark.parametrize("name", IN_STREAM)
def test_b13_every_modelled_exception_inside_a_stream_has_its_outcome(name: str) -> None:
    data = START + delta(text="x") + exception(name, b'{"message":"m","originalStatusCode":500}') + delta(text="never")
    chunks, stream = streamed(data)
    assert "".join(d.get("content", "") for d in deltas(chunks)) == "x"
    assert stream.fault is not None
    assert stream.fault.kind == "error_event"
    assert judge(stream.fault).name == WANTED[name[0].upper() + name[1:]]


def test_an_error_that_is_not_modelled_is_the_clouds() -> None:
    said = {":message-type": (7, "error"), ":error-code": (7, "InternalError"), ":error-message": (7, "m")}
    _, stream = streamed(START + encode(said, b""))
    assert stream.fault is not None
    assert judge(stream.fault).name == "server_error"


@pytest.mark.parametrize(
    ("name", "status", "message", "outcome"),
    [
        ("ServiceQuotaExceededException", 400, "Your request exceeds the service quota.", "rate_limited"),
        ("ValidationException", 400, "Input is too long for requested model.", "context_overflow"),
        ("ValidationException", 400, "This model's maximum context length is 128000 tokens.", "context_overflow"),
        ("ValidationException", 400, "The provided model identifier is invalid.", "model_gone"),
        (
            "ValidationException",
            400,
            "Invocation of model ID m with on-demand throughput isn't supported.",
            "model_gone",
        ),
        ("ValidationException", 400, "This model doesn't support tool use in streaming mode.", "caller_error"),
        ("ResourceNotFoundException", 404, "This model version has reached the end of its life.", "model_gone"),
        ("ExpiredTokenException", 403, "The security token included in the request is expired", "auth"),
        ("IncompleteSignatureException", 400, "Authorization header requires 'Credential'.", "auth"),
        ("UnknownOperationException", 404, "", "model_gone"),
        ("", 502, "<html>", "server_error"),
    ],
)
def test_what_is_ours_is_never_called_the_callers(name: str, status: int, message: str, outcome: str) -> None:
    assert judge(refused(name, status, message)).name == outcome


def test_a_name_in_the_body_is_as_good_as_one_in_the_header() -> None:
    body = b'{"__type":"com.amazon.coral.service#ThrottlingException","Message":"Too many tokens"}'
    found = errors.refused(400, {}, body)
    assert (found.status, found.detail.message) == (429, "Too many tokens")


def test_a_daily_quota_is_left_alone_for_as_long_as_ever() -> None:
    words = "Too many tokens per day, please wait before trying again."
    assert refused("ThrottlingException", 429, words).headers["retry-after"] == "86400"
    assert "retry-after" not in refused("ThrottlingException", 429, "Too many tokens, please wait.").headers
    _, stream = streamed(exception("throttlingException", json.dumps({"message": words}).encode()))
    assert stream.fault is not None
    assert stream.fault.headers["retry-after"] == "86400"


def test_a_body_that_is_nothing_is_still_an_error() -> None:
    for body in (b"", b"[]", b"\xff", b'"x"', b'{"message":{"a":1}}'):
        assert errors.refused(500, {}, body).status == 500
