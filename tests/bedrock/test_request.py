"""OpenAI's chat requests as Converse requests: by example, and by botocore's model for whatever a client may send."""

import base64
import itertools
import json
from typing import Any

import botocore.session
import botocore.validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from providers._bedrock_messages import use_id
from providers._bedrock_request import PARAMETERS, converse, encoded
from providers._emulation import fields_of
from sandbox import _bedrock_model as model
from sandbox._bedrock_prompt import talk_of
from sandbox.types import Refusal
from tests.bedrock.calls import USER, WEATHER, call, deployment, mapped, mapped_at

PNG = base64.b64encode(b"\x89PNG not a real one").decode()


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def used(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def refused(missing: Any = "emulate", **fields: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        mapped(missing, **fields)
    assert (caught.value.kind, caught.value.status, caught.value.sent) == ("status", 400, False)
    assert caught.value.detail.message.endswith(".")
    return caught.value


# ---------------------------------------------------------------------- messages
def test_a_plain_call_is_one_turn_and_its_sampling() -> None:
    found, degraded = mapped(max_tokens=9, temperature=0.25, top_p=0.5, stop=["a", "b"], stream=True, n=1)
    sampling = {"maxTokens": 9, "temperature": 0.25, "topP": 0.5, "stopSequences": ["a", "b"]}
    assert found == {"messages": [{"role": "user", "content": [{"text": "Hello"}]}], "inferenceConfig": sampling}
    assert degraded == {}


def test_system_and_developer_messages_are_the_system_prompt_wherever_they_stand() -> None:
    parts = [{"type": "text", "text": "B"}, {"type": "text", "text": " "}, {"type": "text", "text": "C"}]
    found, _ = mapped(messages=[said("system", "A"), USER, said("developer", parts), said("system", "")])
    assert found["system"] == [{"text": "A"}, {"text": "B"}, {"text": "C"}]
    assert len(found["messages"]) == 1


def test_neighbours_of_one_role_become_one_turn_and_blank_text_vanishes() -> None:
    messages = [
        said("user", "a"),
        said("user", " \n"),
        said("user", "b"),
        said("assistant", "c"),
        said("assistant", ""),
    ]
    found, _ = mapped(messages=[*messages, said("user", [{"type": "text", "text": "d"}])])
    assert found["messages"] == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
        {"role": "assistant", "content": [{"text": "c"}]},
        {"role": "user", "content": [{"text": "d"}]},
    ]


MIXED = [
    USER,
    said(
        "assistant",
        "Let me see.",
        tool_calls=[used("call_1", "weather", '{"city": "Lima"}'), used("call_2", "time", "")],
    ),
    said("tool", "12 °C", tool_call_id="call_1"),
    said("tool", "", tool_call_id="call_2"),
    said("user", "And?"),
]
USES = [
    {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Lima"}}},
    {"toolUse": {"toolUseId": "call_2", "name": "time", "input": {}}},
]


def test_words_beside_calls_and_results_stand_in_the_results_for_a_llama_refuses_them_and_that_is_said() -> None:
    found, degraded = mapped(messages=MIXED, tools=[WEATHER])
    assert [turn["role"] for turn in found["messages"]] == ["user", "assistant", "user"]
    assert found["messages"][1]["content"] == USES
    said_, result, added = "(with the call the assistant said:)", "(the result:)", "(the user adds:)"
    first = [{"text": said_}, {"text": "Let me see."}, {"text": result}, {"text": "12 °C"}]
    assert found["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "call_1", "content": first}},
        {"toolResult": {"toolUseId": "call_2", "content": [{"text": added}, {"text": "And?"}]}},
    ]
    assert [tool["toolSpec"]["name"] for tool in found["toolConfig"]["tools"]] == ["weather", "time"]
    assert degraded == {"messages": "emulated"}
    assert bedrocks_refusal(found) == "nothing of toolResult"


@pytest.mark.parametrize("model", ["us.anthropic.claude-sonnet-4-5-20250929-v1:0", "amazon.nova-pro-v1:0"])
def test_words_stay_beside_calls_and_results_where_the_weights_take_them(model: str) -> None:
    found, degraded = mapped_at(deployment(model=model), messages=MIXED, tools=[WEATHER])
    assert found["messages"][1]["content"] == [{"text": "Let me see."}, *USES]
    assert found["messages"][2]["content"][-1] == {"text": "And?"}
    assert degraded == {}


def test_calls_and_results_alone_are_carried_as_they_are_and_nothing_is_said() -> None:
    alone = [USER, said("assistant", None, tool_calls=MIXED[1]["tool_calls"]), *MIXED[2:4], said("assistant", "Noon.")]
    found, degraded = mapped(messages=[*alone, said("user", "And?")], tools=[WEATHER])
    assert found["messages"][1]["content"] == USES
    assert found["messages"][2]["content"] == [
        {"toolResult": {"toolUseId": "call_1", "content": [{"text": "12 °C"}]}},
        {"toolResult": {"toolUseId": "call_2", "content": []}},
    ]
    assert found["messages"][3:] == [turn("assistant", "Noon."), turn("user", "And?")]
    assert degraded == {}


def turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"text": text}]}


def test_an_id_from_another_cloud_is_made_to_fit_the_same_way_in_call_and_result() -> None:
    messages = [
        USER,
        said("assistant", None, tool_calls=[used("functions.weather:0", "weather", "{}")]),
        said("tool", "x", tool_call_id="functions.weather:0"),
    ]
    found, _ = mapped(messages=messages, tools=[WEATHER])
    call_id = found["messages"][1]["content"][0]["toolUse"]["toolUseId"]
    assert call_id == found["messages"][2]["content"][0]["toolResult"]["toolUseId"]
    assert call_id.startswith("call_")
    assert use_id("tooluse_aB-3") == "tooluse_aB-3"
    assert use_id("a" * 65) != use_id("a" * 66)


def test_numbers_of_calls_tools_and_sampling_are_carried_as_they_were_written() -> None:
    arguments = json.dumps('{"n": 123456789012345678901234567890, "f": 1.10}').encode()
    body = (
        b'{"model":"r","temperature":0.10,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":null,'
        b'"tool_calls":[{"id":"c","function":{"name":"weather","arguments":%b}}]},{"role":"tool","tool_call_id":"c",'
        b'"content":"y"}],"tools":[{"type":"function","function":{"name":"weather",'
        b'"parameters":{"maximum": 9007199254740993, "multipleOf": 0.10}}}]}' % arguments
    )
    sent = encoded(converse(fields_of(call(body)), deployment(), {}))
    assert b'"input":{"n": 123456789012345678901234567890, "f": 1.10}' in sent
    assert b'{"json":{"maximum": 9007199254740993, "multipleOf": 0.10}}' in sent
    assert b'"temperature":0.10' in sent


@pytest.mark.parametrize(("url", "form"), [("image/png", "png"), ("image/jpg", "jpeg"), ("image/WEBP", "webp")])
def test_a_picture_in_a_data_url_is_sent_as_its_bytes(url: str, form: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:{url};base64,{PNG}"}}
    found, _ = mapped(messages=[said("user", [{"type": "text", "text": "What is it?"}, image])])
    assert found["messages"][0]["content"][1] == {"image": {"format": form, "source": {"bytes": PNG}}}


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("https://example.com/llama.png", "not fetched"),
        ("http://169.254.169.254/latest/meta-data", "not fetched"),
        ("file:///etc/passwd", "not fetched"),
        ("data:image/png,raw", "base64"),
        ("data:image/svg+xml;base64,AAAA", "png, jpeg, gif or webp"),
        ("data:image/png;base64,%%%", "no valid base64"),
        ("data:image/png;base64,AAA", "no valid base64"),
        ("data:image/png;base64,", "no picture"),
    ],
)
def test_a_picture_that_cannot_be_sent_is_refused_with_the_reason(url: str, word: str) -> None:
    image = {"type": "image_url", "image_url": {"url": url}}
    error = refused(messages=[said("user", [image])])
    assert word in error.detail.message
    assert "messages[0].content[0]" in error.detail.message
    assert error.detail.code == (
        "invalid_request" if word in ("no valid base64", "no picture") else "unsupported_feature"
    )


@pytest.mark.parametrize(
    ("messages", "word", "elsewhere"),
    [
        ([said("system", "only")], "begin with a message of the user", True),
        ([said("assistant", "a"), USER], "begin with a message of the user", True),
        ([said("user", "  ")], "not blank", True),
        ([said("function", "a", name="f")], "role", True),
        ([{"role": "user", "content": 7}], "OpenAI's form", False),
        ([USER, said("tool", "x")], "tool_call_id", False),
        ([USER, said("assistant", None, tool_calls=[used("c", "f", "[1]")])], "not a JSON object", True),
        ([USER, said("assistant", None, tool_calls=[used("c", "f", "{bad")])], "not a JSON object", True),
        (
            [said("user", [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}])],
            "does not take",
            True,
        ),
        (
            [said("system", [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]), USER],
            "only text",
            False,
        ),
    ],
)
def test_messages_that_converse_cannot_take_are_refused_and_may_be_another_clouds(
    messages: Any, word: str, elsewhere: bool
) -> None:
    detail = refused(messages=messages).detail
    assert word in detail.message
    assert detail.code == ("unsupported_feature" if elsewhere else "invalid_request")


# ---------------------------------------------------------------------- tools
def test_tools_and_a_choice_among_them() -> None:
    described = {"type": "function", "function": {"name": "f-1", "description": "Does.", "strict": True}}
    found, degraded = mapped(tools=[WEATHER, described], tool_choice="required")
    specs = [tool["toolSpec"] for tool in found["toolConfig"]["tools"]]
    assert specs[0] == {"name": "weather", "inputSchema": {"json": WEATHER["function"]["parameters"]}}
    assert specs[1]["description"] == "Does."
    assert specs[1]["inputSchema"] == {"json": {"type": "object", "properties": {}}}
    assert found["toolConfig"]["toolChoice"] == {"any": {}}
    assert degraded == {"strict": "dropped"}
    named = {"type": "function", "function": {"name": "weather"}}
    assert mapped(tools=[WEATHER], tool_choice=named)[0]["toolConfig"]["toolChoice"] == {"tool": {"name": "weather"}}
    assert "toolChoice" not in mapped(tools=[WEATHER], tool_choice="auto")[0]["toolConfig"]


def test_no_tool_is_offered_where_none_may_be_called() -> None:
    assert "toolConfig" not in mapped(tools=[WEATHER], tool_choice="none")[0]


def test_a_history_with_calls_is_told_in_words_where_nothing_may_be_called() -> None:
    messages = [
        USER,
        said("assistant", None, tool_calls=[used("c", "weather", "{}")]),
        said("tool", "x", tool_call_id="c"),
    ]
    found, degraded = mapped(messages=messages)
    assert "toolConfig" not in found
    assert [turn["content"] for turn in found["messages"][1:]] == [
        [{"text": "(called weather with {})"}],
        [{"text": "(result of weather:)"}, {"text": "x"}],
    ]
    assert degraded == {"tools": "emulated"}
    assert mapped(messages=messages, tools=[WEATHER], tool_choice="none")[1] == {"tool_choice": "emulated"}


def test_a_tool_of_another_type_is_for_another_cloud() -> None:
    error = refused(tools=[{"type": "custom", "custom": {"name": "x"}}])
    assert (error.detail.param, error.detail.code) == ("tools", "unsupported_feature")
    assert refused(tools=[{"type": "function"}]).detail.code == "invalid_request"


@pytest.mark.parametrize("name", ["", "a.b", "a b", "é", "x" * 65])
def test_a_tools_name_must_be_one_that_bedrock_takes(name: str) -> None:
    tool = {"type": "function", "function": {"name": name}}
    assert "1 to 64 letters" in refused(tools=[tool]).detail.message


# ---------------------------------------------------------------------- sampling and the rest
@pytest.mark.parametrize("temperature", [1.01, 2, 2.0])
def test_a_temperature_above_one_is_one_and_said(temperature: float) -> None:
    found, degraded = mapped(temperature=temperature)
    assert found["inferenceConfig"] == {"temperature": 1.0}
    assert degraded == {"temperature": "clamped"}


def test_the_newer_name_of_the_limit_goes_first_and_null_is_as_if_unsaid() -> None:
    assert mapped(max_tokens=5, max_completion_tokens=6)[0]["inferenceConfig"] == {"maxTokens": 6}
    assert "inferenceConfig" not in mapped(max_tokens=None, temperature=None, stop=None, top_p=None)[0]
    assert "inferenceConfig" not in mapped(stop="")[0]


def test_a_json_schema_is_converses_own_where_the_weights_take_one() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
    found, _ = mapped(response_format=wanted)
    form = found["outputConfig"]["textFormat"]
    assert form["type"] == "json_schema"
    assert json.loads(form["structure"]["jsonSchema"]["schema"]) == {"type": "object"}
    assert "outputConfig" not in mapped(response_format={"type": "text"})[0]


def test_the_tier_is_mapped_where_converse_has_it_and_else_said_to_be_dropped() -> None:
    assert mapped(service_tier="flex")[0]["serviceTier"] == {"type": "flex"}
    for usual in ("auto", "default"):
        assert mapped(service_tier=usual) == mapped()
    for at, tier in ((deployment(), "scale"), (deployment(model="us.meta.llama3-3-70b-instruct-v1:0"), "flex")):
        found, degraded = mapped_at(at, service_tier=tier)
        assert "serviceTier" not in found
        assert degraded == {"service_tier": "dropped"}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_output_limit_beyond_the_weights_is_theirs_and_said(name: str) -> None:
    at = deployment(max_output_tokens=4096)
    assert mapped_at(at, **{name: 4097}) == ({**mapped()[0], "inferenceConfig": {"maxTokens": 4096}}, {name: "clamped"})
    assert mapped_at(at, **{name: 4096})[1] == {}
    assert mapped(**{name: 99_999})[0]["inferenceConfig"] == {"maxTokens": 99_999}, "no limit is known"


def test_what_does_not_change_the_answer_is_left_out_and_said() -> None:
    found, degraded = mapped(user="u", metadata={"a": "b"}, store=False)
    assert set(found) == {"messages"}
    assert degraded == {"user": "dropped", "metadata": "dropped", "store": "dropped"}


def test_what_is_not_known_is_refused_or_dropped_as_the_route_says() -> None:
    assert refused(top_k=5).detail.param == "top_k"
    assert refused("strict", top_k=5).detail.code == "unknown_parameter"
    found, degraded = mapped("lossy", top_k=5)
    assert "top_k" not in json.dumps(found)
    assert degraded == {"top_k": "dropped"}


@pytest.mark.parametrize("name", [name for name, handling in PARAMETERS.items() if handling == "refused"])
def test_what_would_change_what_is_asked_is_refused_even_by_a_lossy_route(name: str) -> None:
    assert refused("lossy", **{name: {"x": 1}}).detail.param == name


def test_every_parameter_of_openais_sdk_has_a_row() -> None:
    from openai.types.chat import completion_create_params as params

    known = set(params.CompletionCreateParamsNonStreaming.__annotations__)
    for base in params.CompletionCreateParamsNonStreaming.__orig_bases__:  # type: ignore[attr-defined]
        known |= set(getattr(base, "__annotations__", {}))
    known -= {"stream"}
    assert {"messages", "model", "temperature"} <= known
    assert known <= set(PARAMETERS), "new in OpenAI's API: give it a row"


# ---------------------------------------------------------------------- whatever a client may send
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ids = st.sampled_from(["call_1", "functions.f:0", "ñ", "a" * 70])
names = st.sampled_from(["f", "get_weather", "a-b_C9"])
objects = st.dictionaries(texts, st.integers() | texts | st.none(), max_size=2).map(json.dumps)
parts = st.lists(texts.map(lambda text: {"type": "text", "text": text}), max_size=3)
systems = st.builds(lambda content: said("system", content), texts | parts)
users = st.builds(lambda content: said("user", content), texts | parts)
assistants = st.builds(
    lambda content, calls: said("assistant", content, **({"tool_calls": calls} if calls else {})),
    st.none() | texts | parts,
    st.lists(st.builds(used, ids, names, objects), max_size=2),
)
tools_said = st.builds(lambda content, id_: said("tool", content, tool_call_id=id_), texts | parts, ids)
conversations = st.lists(systems | users | assistants | tools_said, min_size=1, max_size=8)
SHAPE = botocore.session.get_session().get_service_model("bedrock-runtime").operation_model("Converse").input_shape


@settings(deadline=None)
@given(conversations, st.none() | st.floats(0, 2), st.none() | st.lists(texts, max_size=3))
def test_whatever_is_mapped_is_valid_by_botocores_model(messages: Any, temperature: Any, stop: Any) -> None:
    found = outcome(messages=messages, temperature=temperature, stop=stop)
    if isinstance(found, UpstreamError):
        assert found.status == 400
        return
    assert not botocore.validate.ParamValidator().validate({"modelId": "m", **found}, SHAPE).has_errors()
    model.check("Converse", found)
    refusal = bedrocks_refusal(found)  # calls and results that do not match are the caller's
    assert "toolResult" in refusal or "tool use blocks cannot" in refusal
    roles = [turn["role"] for turn in found["messages"]]
    assert all(a != b for a, b in itertools.pairwise(roles))
    contents = [m["content"] for m in messages if m["content"]]
    said_texts = [p if isinstance(p, str) else p["text"] for c in contents for p in ([c] if isinstance(c, str) else c)]
    sent = json.dumps(found, ensure_ascii=False)
    assert all(json.dumps(text, ensure_ascii=False) in sent for text in said_texts if text.strip())


def outcome(**fields: Any) -> Any:
    """The Converse request, or the error."""
    try:
        return mapped(**fields)[0]
    except UpstreamError as error:
        return error


def bedrocks_refusal(found: Any) -> str:
    """What Bedrock would still refuse of a conversation, or the word for nothing."""
    try:
        talk_of(found)
    except Refusal as refusal:
        return str(refusal.body["message"])
    return "nothing of toolResult"
