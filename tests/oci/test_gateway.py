"""Oracle behind the gateway, asked with OpenAI's SDK: answers, tools, JSON, ends, failover, faults, prices."""

import json
import time
from typing import Any

import openai
import pytest

from gateway.errors import UpstreamError
from gateway.types import Reply
from sandbox import _oci_demo as demo
from sandbox._oci_signature import PublicKey
from sandbox._oci_tokens import issue
from sandbox.behaviour import FRAMES
from tests.harness import ask, chat, eventually, json_answer
from tests.oci.calls import PEM, call, deployment
from tests.oci.conftest import Stage, scripted, staged, streamed

GROQ = {"account": "groq", "model": "llama-3.1-8b-instant"}
CHAT = "/20231130/actions/chat"
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    for name in ("get_weather", "get_time")
]


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


# ---------------------------------------------------------------------- answers
async def test_plain_and_streamed_are_the_same_answer_as_another_cloud_gives() -> None:
    async with staged(GROQ) as stage:
        plain = await stage.raw(max_tokens=12)
        answer = plain.parse()
        assert (answer.model, answer.object, answer.usage.completion_tokens) == ("r", "chat.completion", 12)
        assert plain.headers["x-arriero-deployment"] == "oci"
        assert "x-arriero-degraded" not in plain.headers
        chunks = await stage.stream(max_tokens=12)
        assert text_of(chunks) == answer.choices[0].message.content
        assert {chunk.model for chunk in chunks} == {"r"}
        assert chunks[-1].choices == []
        assert chunks[-1].usage == answer.usage
        stage.box.set("oci", fault={"kind": "refuse"})
        elsewhere = await stage.ask(max_tokens=12)
        assert elsewhere.choices[0].message.content == answer.choices[0].message.content
        assert stage.attempts() == [("oci", "refused"), ("groq", "ok")]


async def test_a_conversation_with_tools_runs_to_its_end(stage: Stage) -> None:
    messages: list[Any] = [{"role": "user", "content": "get_weather in Paris, please"}]
    first = await stage.ask(messages=messages, tools=TOOLS, tool_choice="auto", max_tokens=100)
    (call,) = first.choices[0].message.tool_calls
    assert (call.function.name, list(json.loads(call.function.arguments))) == ("get_weather", ["city"])
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    second = await stage.ask(messages=messages, tools=TOOLS, max_tokens=9)
    assert second.choices[0].message.content
    assert stage.sent()["messages"][1]["toolCalls"][0]["id"] == call.id
    assert stage.sent()["messages"][2] == {
        "role": "TOOL",
        "content": [{"type": "TEXT", "text": "sunny"}],
        "toolCallId": call.id,
    }


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_time"}}])
async def test_a_tool_can_be_demanded(stage: Stage, choice: Any) -> None:
    answer = await stage.ask(tools=TOOLS, tool_choice=choice, max_tokens=100)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == ("get_weather" if choice == "required" else "get_time")
    assert (await stage.ask(tools=TOOLS, tool_choice="none", max_tokens=5)).choices[0].message.tool_calls is None


async def test_json_by_schema_and_by_mode(stage: Stage) -> None:
    schema = {"type": "object", "properties": {"llamas": {"type": "integer"}}, "required": ["llamas"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    answer = await stage.ask(response_format=form, max_tokens=100)
    assert isinstance(json.loads(answer.choices[0].message.content)["llamas"], int)
    free = await stage.ask(response_format={"type": "json_object"}, max_tokens=100)
    assert isinstance(json.loads(free.choices[0].message.content), dict)


async def test_stop_strings_end_the_answer(stage: Stage) -> None:
    whole = (await stage.ask(max_tokens=12)).choices[0].message.content
    answer = await stage.ask(max_tokens=12, stop=[" w0003"])
    assert answer.choices[0].message.content == whole.partition(" w0003")[0]
    assert answer.choices[0].finish_reason == "stop"


async def test_a_picture_is_looked_at_where_the_model_can_and_refused_as_the_callers_where_it_cannot() -> None:
    parts = [
        {"type": "text", "text": "What?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    ]
    messages = [{"role": "user", "content": parts}]
    maverick = {"model": "meta.llama-4-maverick-17b-128e-instruct-fp8", "features": ["+vision"]}
    async with staged(deployment=maverick) as stage:
        assert (await stage.ask(messages=messages, max_tokens=5)).choices[0].message.content
    async with staged(deployment={"features": ["+vision"]}) as stage:
        with pytest.raises(openai.BadRequestError, match="does not take images"):
            await stage.ask(messages=messages, max_tokens=5)
    async with staged() as stage:
        with pytest.raises(openai.BadRequestError, match="'vision' is not offered by oci"):
            await stage.ask(messages=messages, max_tokens=5)
        assert stage.box.calls("oci") == []


async def test_a_dedicated_endpoint_by_account_and_by_deployment() -> None:
    async with staged(endpoint=demo.ENDPOINT) as stage:
        await stage.ask(max_tokens=5)
        mode = json.loads(stage.box.calls("oci")[-1]["body"])["servingMode"]
        assert mode == {"servingType": "DEDICATED", "endpointId": demo.ENDPOINT}
    async with staged(deployment={"model": demo.ENDPOINT, "max_output_tokens": 6000}) as stage:
        await stage.ask(max_tokens=5000)
        assert stage.sent()["maxTokens"] == 5000


async def test_the_openai_compatible_path_with_a_key_of_the_service() -> None:
    account = dict.fromkeys(("key", "tenancy", "user", "fingerprint", "compartment"))
    async with staged(api_key=demo.API_KEY, **account) as stage:
        answer = await stage.ask(max_tokens=6)
        assert answer.usage.completion_tokens == 6
        assert text_of(await stage.stream(max_tokens=6)) == answer.choices[0].message.content
        assert {call["path"] for call in stage.box.calls("oci")} == {"/openai/v1/chat/completions"}


async def test_a_session_token_signs_as_well(tmp_path: Any) -> None:
    (tmp_path / "key.pem").write_text(PEM)
    (tmp_path / "token").write_text(issue(PublicKey(demo.API_MODULUS, demo.EXPONENT), "user", time.time()))
    lines = ["[S]", f"security_token_file={tmp_path}/token", f"key_file={tmp_path}/key.pem", "region=us-chicago-1"]
    (tmp_path / "config").write_text("\n".join(lines))
    own = dict.fromkeys(("key", "tenancy", "user", "fingerprint", "region"))
    async with staged(auth="security_token", profile="S", config_file=str(tmp_path / "config"), **own) as stage:
        assert (await stage.ask(max_tokens=4)).usage.completion_tokens == 4


# ---------------------------------------------------------------------- what is told
async def test_what_was_dropped_is_in_the_header_and_in_the_decision(stage: Stage) -> None:
    answer = await stage.raw(user="ann", max_tokens=9_000)
    assert answer.headers["x-arriero-degraded"] == "max_tokens=clamped,user=dropped"
    assert stage.served.decisions()[0].attempts[0].degraded == {"max_tokens": "clamped", "user": "dropped"}


async def test_what_oracle_has_no_word_for_is_another_clouds_to_answer_and_says_nothing_against_it() -> None:
    async with staged(GROQ) as stage:
        await stage.ask(functions=[{"name": "f"}], function_call="none", max_tokens=4)
        assert stage.attempts() == [("oci", "unfit"), ("groq", "ok")]
        facts = stage.served.gateway.fleet.routes["r"].lanes["oci"].facts
        assert (facts.failures, facts.cooling_until) == (0, 0.0)


async def test_what_nobody_has_a_word_for_is_refused_with_its_name() -> None:
    async with staged() as stage:
        with pytest.raises(openai.BadRequestError) as refused:
            await stage.ask(functions=[{"name": "f"}])
        assert (refused.value.code, refused.value.param) == ("unsupported_feature", "functions")


async def test_the_callers_mistakes_are_answered_in_openais_form_and_never_tried_elsewhere() -> None:
    async with staged(GROQ) as stage:
        with pytest.raises(openai.BadRequestError, match="topP must be between"):
            await stage.ask(temperature=1.5, top_p=2)
        assert stage.attempts() == [("oci", "caller_error")]


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"deployment": {"model": "meta.llama-3-70b-instruct"}}, "model_gone"),
        ({"deployment": {"model": "meta.never-was"}}, "model_gone"),
        ({"deployment": {"model": "ocid1.generativeaiendpoint.oc1..gone"}}, "model_gone"),
        ({"compartment": "ocid1.compartment.oc1..other"}, "model_gone"),
        ({"user": "ocid1.user.oc1..other"}, "auth"),
    ],
)
async def test_what_is_wrong_with_our_config_is_another_clouds_chance(changes: dict[str, Any], outcome: str) -> None:
    async with staged(GROQ, **changes) as stage:
        await stage.ask(max_tokens=4)
        assert stage.attempts() == [("oci", outcome), ("groq", "ok")]


async def test_oracles_own_words_stay_inside_when_nobody_answers() -> None:
    async with staged(compartment="ocid1.compartment.oc1..other") as stage:
        with pytest.raises(openai.APIStatusError) as failed:
            await stage.ask()
        assert failed.value.status_code == 502
        assert "Authorization failed" not in failed.value.message
        assert "opc-request-id" in failed.value.message


async def test_an_overflow_goes_to_a_larger_window() -> None:
    async with staged({**GROQ, "context_tokens": 200_000}, deployment={"context_tokens": 1000}) as stage:
        stage.box.set("oci", context_tokens=5)
        await stage.ask(max_tokens=4)
        assert stage.attempts() == [("oci", "context_overflow"), ("groq", "ok")]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(409, "conflict"), (429, "rate_limited"), (500, "server_error"), (502, "server_error"), (503, "overloaded")],
)
async def test_oracles_troubles_are_another_clouds_chance_plain_and_streamed(status: int, outcome: str) -> None:
    async with staged(GROQ) as stage:
        stage.box.set("oci", fault={"kind": "status", "status": status})
        await stage.ask(max_tokens=4)
        assert stage.attempts() == [("oci", outcome), ("groq", "ok")]
        await stage.stream(max_tokens=4)
        assert stage.attempts() == [("oci", outcome), ("groq", "ok")]


# ---------------------------------------------------------------------- what a model lacks
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_choices_that_a_model_does_not_make_are_made_by_as_many_calls(stream: bool) -> None:
    async with staged(deployment={"features": ["-n"]}) as stage:
        if stream:
            chunks = await stage.stream(n=2, max_tokens=4)
            found = {choice.index for chunk in chunks for choice in chunk.choices}
            assert (found, chunks[-1].usage.completion_tokens) == ({0, 1}, 8)
        else:
            answer = await stage.raw(n=2, max_tokens=4)
            assert answer.headers["x-arriero-degraded"] == "n=emulated"
            assert [choice.index for choice in answer.parse().choices] == [0, 1]
            assert answer.parse().usage.completion_tokens == 8
        assert len(stage.box.calls("oci")) == 2
        assert not any("isStream" in json.loads(call["body"])["chatRequest"] for call in stage.box.calls("oci"))


async def sent(stage: Stage, missing: str, **fields: Any) -> Reply:
    """What the provider itself makes of a call to a model without seeds."""
    provider: Any = stage.served.gateway.fleet.providers["oci"]
    features = stage.served.gateway.fleet.routes["r"].lanes["oci"].deployment.features - {"seed"}
    reply: Reply = await provider.send(call(seed=7, **fields), deployment(missing=missing, features=features))
    return reply


async def test_a_parameter_that_a_model_lacks_is_dropped_only_where_the_route_is_lossy(stage: Stage) -> None:
    plain = await sent(stage, "lossy", max_tokens=4)
    assert plain.degraded == {"seed": "dropped"}
    text = json.loads(await plain.read())["choices"][0]["message"]["content"]
    assert "seed" not in stage.sent()
    reply = await sent(stage, "lossy", max_tokens=4, stream=True)
    assert (reply.degraded, reply.headers["content-type"]) == ({"seed": "dropped"}, "text/event-stream")
    pieces = b""
    while piece := await reply.chunk():
        pieces += piece
    chunks = [json.loads(line[6:]) for line in pieces.split(b"\n\n") if line.startswith(b"data: {")]
    assert "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]) == text
    asked = len(stage.box.calls("oci"))
    with pytest.raises(UpstreamError, match="cannot serve the request as asked"):
        await sent(stage, "strict")
    assert len(stage.box.calls("oci")) == asked


# ---------------------------------------------------------------------- faults of the wire
FAILS_OVER: list[dict[str, Any]] = [
    {"kind": "reset_before"},
    {"kind": "close_before"},
    {"kind": "html"},
    {"kind": "redirect"},
    {"kind": "empty"},
    {"kind": "empty", "variant": "choices"},
    {"kind": "error_body", "status": 503},
    {"kind": "bad_json"},
    {"kind": "short_body"},
    {"kind": "gzip", "variant": "whole"},
    {"kind": "drift", "variant": "wrong_types"},
]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("fault", FAILS_OVER, ids=lambda f: "-".join(map(str, f.values())))
async def test_a_fault_before_any_content_is_never_seen_by_the_caller(fault: dict[str, Any], stream: bool) -> None:
    async with staged(GROQ) as stage:
        stage.box.set("oci", fault=fault)
        if stream and fault["kind"] in ("short_body",):
            fault = {"kind": "reset_before"}  # a stream's body breaks after content: see the next test
            stage.box.set("oci", fault=fault)
        if stream:
            assert text_of(await stage.stream(max_tokens=6))
        else:
            assert (await stage.ask(max_tokens=6)).choices[0].message.content
        (first, last) = stage.attempts()
        assert first[1] not in ("ok", "caller_error")
        assert last == ("groq", "ok")


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "close_after_tokens", "after_tokens": 3},
        {"kind": "error_event", "after_tokens": 3},
        {"kind": "bad_json", "after_tokens": 3},
        {"kind": "bad_chunk", "after_tokens": 3},
        {"kind": "neither", "after_tokens": 3},
    ],
    ids=lambda f: f["kind"],
)
async def test_a_stream_that_breaks_is_said_to_be_incomplete_after_exactly_what_came(
    fault: dict[str, Any], stage: Stage
) -> None:
    whole = (await stage.ask(max_tokens=9)).choices[0].message.content
    stage.box.set("oci", fault=fault)
    answer = await ask(stage.served, chat(stream=True, max_tokens=9))
    text = "".join(answer.deltas)
    assert whole.startswith(text)
    assert len(answer.deltas) == 3
    assert answer.fault is not None
    assert answer.fault["code"] == "stream_incomplete"
    assert (answer.finishes, answer.done) == ([], False)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "crlf"},
        {"kind": "no_space"},
        {"kind": "slow_bytes"},
        {"kind": "no_done"},
        {"kind": "usage_twice"},
        {"kind": "drift"},
        {"kind": "drift", "variant": "missing_fields"},
        {"kind": "close_after_tokens", "after_finish": True},
        *(
            {"kind": "bad_frame", "variant": v}
            for v in FRAMES
            if v in ("cr", "mixed", "multi_line", "bom", "fields", "comments", "no_last_blank")
        ),
    ],
    ids=lambda f: "-".join(map(str, f.values())),
)
async def test_odd_forms_of_a_whole_stream_are_read_as_the_same_text(fault: dict[str, Any], stage: Stage) -> None:
    wanted = await stage.ask(max_tokens=9)
    stage.box.set("oci", fault=fault)
    answer = await ask(stage.served, chat(stream=True, max_tokens=9, stream_options={"include_usage": True}))
    assert "".join(answer.deltas) == wanted.choices[0].message.content
    assert (answer.finishes, answer.done, answer.fault) == (["length"], True, None)
    usages = [chunk["usage"] for chunk in answer.chunks if chunk.get("usage")]
    assert [usage.get("estimated", False) for usage in usages] == [bool(fault.get("after_finish"))]


async def test_without_usage_the_tokens_are_estimated_and_said_to_be(stage: Stage) -> None:
    stage.box.set("oci", fault={"kind": "no_usage"})
    await stage.ask(max_tokens=9)
    assert stage.served.decisions()[0].attempts[0].cost_estimated
    chunks = await stage.stream(max_tokens=9)
    assert [chunk.usage.model_extra for chunk in chunks if chunk.usage] == [{"estimated": True}]
    assert stage.served.decisions()[0].attempts[0].cost_estimated


async def test_padding_alone_is_no_sign_of_life() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    text = b'data: {"message":{"content":[{"type":"TEXT","text":"a"}]}}\n\n'
    part = head + b"%x\r\n%b\r\n" % (len(text), text)
    async with scripted(part, timeouts={"idle_s": 0.2}) as stage:
        with pytest.raises(openai.APIError, match="incomplete"):
            await stage.stream()


async def test_a_caller_who_leaves_closes_oracles_connection(stage: Stage) -> None:
    stage.box.set("oci", tpot_s=0.02)
    stream = await stage.ask(stream=True, max_tokens=4000)
    await anext(aiter(stream))
    await stream.close()
    await stage.served.at_rest()
    await eventually(lambda: stage.box.calls("oci")[-1]["closed"], "Oracle's connection stayed open")
    assert stage.box.calls("oci")[-1]["ended"] == "client_closed"


# ---------------------------------------------------------------------- what it costs
async def test_a_call_is_settled_by_characters_where_oracle_bills_those(stage: Stage) -> None:
    answer = await stage.raw(messages=[{"role": "user", "content": "né 🦙"}], max_tokens=9)
    usage = answer.parse().usage
    output = len(answer.parse().choices[0].message.content)
    assert (usage.prompt_characters, usage.completion_characters) == (4, output)
    assert answer.headers["x-arriero-cost-usd"] == f"{(4 + output) * 0.18 / 1e6:.8f}".rstrip("0")
    await stage.stream(messages=[{"role": "user", "content": "né 🦙"}], max_tokens=9)
    attempt = stage.served.decisions()[0].attempts[0]
    assert attempt.cost_nano == (4 + output) * 180
    assert not attempt.cost_estimated


async def test_a_price_in_the_config_is_by_tokens() -> None:
    async with staged(deployment={"price": {"in": 1, "out": 2}}) as stage:
        answer = await stage.raw(max_tokens=9)
        usage = answer.parse().usage
        assert not hasattr(usage, "prompt_characters")
        cost = usage.prompt_tokens * 1000 + 9 * 2000
        assert stage.served.decisions()[0].attempts[0].cost_nano == cost


async def test_a_plain_answer_of_another_shape_streams_nothing() -> None:
    async with scripted(json_answer({"chatResponse": {"choices": [{"message": {}, "finishReason": "stop"}]}})) as stage:
        with pytest.raises(openai.APIStatusError, match="not with events"):
            await stage.stream()
    async with scripted(streamed('{"code":"429","message":"busy"}')) as stage:
        with pytest.raises(openai.RateLimitError):
            await stage.stream()
