"""From OpenAI's words to Oracle's: what every parameter becomes, what is dropped and said, what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from gateway.errors import UpstreamError
from providers._emulation import fields_of
from providers._oci_request import PARAMETERS, Place, translate
from sandbox import _oci_input
from sandbox.types import Refusal
from tests.oci.calls import COMPARTMENT, asked, body, call, deployment, patient, translated

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def refused(**fields: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as error:
        translated(**fields)
    assert (error.value.kind, error.value.status, error.value.sent) == ("status", 400, False)
    return error.value


# ---------------------------------------------------------------------- who serves
def test_a_model_is_served_on_demand_and_the_compartment_pays() -> None:
    found = json.loads(translated().body)
    assert found["compartmentId"] == COMPARTMENT
    assert found["servingMode"] == {"servingType": "ON_DEMAND", "modelId": "meta.llama-3.3-70b-instruct"}
    assert found["chatRequest"]["apiFormat"] == "GENERIC"


@pytest.mark.parametrize(
    ("endpoint", "model"),
    [("ocid1.generativeaiendpoint.oc1..e", None), (None, "ocid1.generativeaiendpoint.oc1..e")],
)
def test_a_dedicated_endpoint_is_named_by_the_account_or_as_the_model(endpoint: str | None, model: str | None) -> None:
    found = json.loads(translated(endpoint=endpoint, model=model).body)
    assert found["servingMode"] == {"servingType": "DEDICATED", "endpointId": "ocid1.generativeaiendpoint.oc1..e"}


def test_a_models_own_ocid_is_on_demand() -> None:
    found = json.loads(translated(model="ocid1.generativeaimodel.oc1..m").body)
    assert found["servingMode"] == {"servingType": "ON_DEMAND", "modelId": "ocid1.generativeaimodel.oc1..m"}


# ---------------------------------------------------------------------- messages
def test_roles_and_texts() -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": "d"},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
    ]
    assert asked(messages=messages)["messages"] == [
        {"role": "SYSTEM", "content": [{"type": "TEXT", "text": "s"}]},
        {"role": "SYSTEM", "content": [{"type": "TEXT", "text": "d"}]},
        {"role": "USER", "content": [{"type": "TEXT", "text": "a"}, {"type": "TEXT", "text": "b"}], "name": "ann"},
        {"role": "ASSISTANT", "content": [{"type": "TEXT", "text": "c"}]},
    ]


def test_a_developer_stays_one_for_the_makers_of_that_role() -> None:
    messages = [{"role": "developer", "content": "d"}]
    found = json.loads(translated(model="openai.gpt-oss-120b", messages=messages).body)
    assert found["chatRequest"]["messages"][0]["role"] == "DEVELOPER"


def test_the_text_of_an_assistant_is_kept_beside_its_tool_calls() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1.0}'}}]
    messages = [
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    assert asked(messages=messages)["messages"] == [
        {
            "role": "ASSISTANT",
            "content": [{"type": "TEXT", "text": "Let me look."}],
            "toolCalls": [{"id": "c1", "type": "FUNCTION", "name": "f", "arguments": '{"a": 1.0}'}],
        },
        {"role": "TOOL", "content": [{"type": "TEXT", "text": "42"}], "toolCallId": "c1"},
    ]


@pytest.mark.parametrize("content", [None, ""])
def test_tool_calls_without_text_have_no_content(content: str | None) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    (found,) = asked(messages=[{"role": "assistant", "content": content, "tool_calls": calls}])["messages"]
    assert "content" not in found


def test_images_go_as_data_and_their_detail_is_said_to_be_dropped() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "high"}},
    ]
    found = translated(messages=[{"role": "user", "content": parts}])
    (message,) = json.loads(found.body)["chatRequest"]["messages"]
    assert message["content"][1] == {"type": "IMAGE", "imageUrl": {"url": "data:image/png;base64,AA=="}}
    assert found.degraded == {"detail": "dropped"}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "function", "name": "f", "content": "x"},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
        {"role": "user", "content": 7},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]},
    ],
)
def test_a_message_that_oracle_has_no_words_for_is_refused_as_the_callers(message: Any) -> None:
    error = refused(messages=[message])
    assert error.detail.param == "messages"
    assert error.detail.message


# ---------------------------------------------------------------------- parameters
def test_every_plain_parameter_has_its_word() -> None:
    found = asked(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        seed=7,
        n=2,
        frequency_penalty=0.25,
        presence_penalty=-0.25,
        logit_bias={"15043": -100},
        parallel_tool_calls=False,
        metadata={"team": "a"},
        stop=["\n", "END"],
        reasoning_effort="low",
        verbosity="high",
        service_tier="priority",
        prediction={"type": "content", "content": "x"},
    )
    del found["apiFormat"], found["messages"]
    assert found == {
        "maxTokens": 4000,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "seed": 7,
        "numGenerations": 2,
        "frequencyPenalty": 0.25,
        "presencePenalty": -0.25,
        "logitBias": {"15043": -100},
        "isParallelToolCalls": False,
        "metadata": {"team": "a"},
        "stop": ["\n", "END"],
        "reasoningEffort": "LOW",
        "verbosity": "HIGH",
        "serviceTier": "PRIORITY",
        "prediction": {"type": "CONTENT", "content": [{"type": "TEXT", "text": "x"}]},
    }


def test_one_stop_string_is_a_list_of_one() -> None:
    assert asked(stop="END")["stop"] == ["END"]


@pytest.mark.parametrize(
    ("fields", "wanted", "told"),
    [
        ({"max_tokens": 9}, 9, {}),
        ({"max_completion_tokens": 9, "max_tokens": 5}, 9, {}),
        ({}, 4000, {}),
        ({"max_tokens": None}, 4000, {}),
        ({"max_tokens": 5000}, 4000, {"max_tokens": "clamped"}),
    ],
)
def test_max_tokens_is_always_said(fields: dict[str, Any], wanted: int, told: dict[str, str]) -> None:
    found = translated(**fields)
    assert json.loads(found.body)["chatRequest"]["maxTokens"] == wanted
    assert found.degraded == told


def max_tokens(**limits: Any) -> int:
    asked_ = call()
    found = translate(fields_of(asked_), asked_, deployment(**limits), Place(COMPARTMENT))
    said: int = json.loads(found.body)["chatRequest"]["maxTokens"]
    return said


def test_max_tokens_leaves_room_for_the_prompt_and_is_4000_where_no_limit_is_known() -> None:
    assert 900 < max_tokens(max_output_tokens=4000, context_tokens=1000) < 1000
    assert max_tokens(max_output_tokens=None, context_tokens=None) == 4000


def test_a_stream_always_asks_for_usage() -> None:
    assert asked(stream=True)["streamOptions"] == {"isIncludeUsage": True}
    assert asked(stream=True, stream_options={"include_usage": False})["isStream"] is True
    assert "isStream" not in asked()


@pytest.mark.parametrize(
    ("fields", "said", "top"),
    [
        ({"logprobs": True}, 1, 0),
        ({"logprobs": True, "top_logprobs": 0}, 1, 0),
        ({"logprobs": True, "top_logprobs": 5}, 5, 5),
        ({"logprobs": False}, None, None),
        ({}, None, None),
    ],
)
def test_logprobs_are_a_number(fields: dict[str, Any], said: int | None, top: int | None) -> None:
    found = translated(**fields)
    assert json.loads(found.body)["chatRequest"].get("logProbs") == said
    assert found.top_logprobs == top


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", {"type": "AUTO"}),
        ("none", {"type": "NONE"}),
        ("required", {"type": "REQUIRED"}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "FUNCTION", "name": "f"}),
    ],
)
def test_tools_and_their_choice(choice: Any, wanted: dict[str, str]) -> None:
    found = asked(tools=[TOOL], tool_choice=choice)
    assert found["tools"] == [{"type": "FUNCTION", "name": "f", "description": "d", "parameters": {"type": "object"}}]
    assert found["toolChoice"] == wanted


def test_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "number", "minimum": 0.10}}}
    wanted = {"name": "n", "description": "d", "strict": True, "schema": schema}
    assert asked(response_format={"type": "text"})["responseFormat"] == {"type": "TEXT"}
    assert asked(response_format={"type": "json_object"})["responseFormat"] == {"type": "JSON_OBJECT"}
    assert asked(response_format={"type": "json_schema", "json_schema": wanted})["responseFormat"] == {
        "type": "JSON_SCHEMA",
        "jsonSchema": {"name": "n", "description": "d", "schema": schema, "isStrict": True},
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"logprobs": True, "top_logprobs": "many"}, "top_logprobs"),
    ],
)
def test_what_would_give_another_answer_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.detail.param == param
    assert error.detail.code == "unsupported_feature"


def test_what_changes_no_answer_is_dropped_and_told_once_it_asks_for_something() -> None:
    found = translated(user="u", store=False, safety_identifier="x", service_tier="flex", n=None, functions=[])
    assert found.degraded == {"user": "dropped", "safety_identifier": "dropped", "service_tier": "dropped"}


def lossy(**fields: Any) -> dict[str, Any]:
    """What is told of a call on a route that may lose something."""
    asked_ = call(**fields)
    found = translate(fields_of(asked_), asked_, deployment(missing="lossy"), Place(COMPARTMENT))
    return dict(found.degraded)


def test_what_is_not_known_may_change_the_answer_and_is_refused_unless_the_route_is_lossy() -> None:
    assert refused(min_p=0.1).detail.param == "min_p"
    assert lossy(min_p=0.1) == {"min_p": "dropped"}


def test_names_that_no_header_should_carry_are_told_without_the_name() -> None:
    assert lossy(**{"X-Evil\r\nset-cookie: a": 1, "ключ": 2, "A" * 200: 3}) == {"other": "dropped"}
    assert len(lossy(**{f"field_{number}": 1 for number in range(50)})) <= 9


def test_every_parameter_that_openai_has_is_accounted_for() -> None:
    named = set(CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert named - PARAMETERS.keys() == set()


def test_a_strict_tool_is_said_to_be_none() -> None:
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
    assert translated(tools=[strict]).degraded == {"strict": "dropped"}


# ---------------------------------------------------------------------- lossless
def test_numbers_and_texts_go_over_as_they_came() -> None:
    raw = (
        b'{"model":"r","temperature":0.70,"seed":123456789012345678901234567890,"top_p":1e-1,'
        b'"messages":[{"role":"user","content":"\\u00e9\\ud83e\\udd99 \\/ \xc3\xb1"}]}'
    )
    found = translated(raw).body
    for piece in (b'"temperature":0.70', b'"seed":123456789012345678901234567890', b'"topP":1e-1'):
        assert piece in found
    assert b'"text":"\\u00e9\\ud83e\\udd99 \\/ \xc3\xb1"' in found


def test_the_characters_of_the_messages_are_counted() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages: list[Any] = [
        {"role": "system", "content": "né"},
        {"role": "user", "content": [{"type": "text", "text": "🦙\n"}]},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]
    assert translated(messages=messages).characters == 2 + 2 + 2
    escaped = json.dumps({"model": "r", "messages": messages}, ensure_ascii=True).encode()
    assert translated(escaped).characters == 6


# ---------------------------------------------------------------------- everything at once
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "developer"]), "content": TEXT}),
        st.fixed_dictionaries(
            {
                "role": st.just("assistant"),
                "content": TEXT,
                "tool_calls": st.lists(
                    st.fixed_dictionaries(
                        {
                            "id": TEXT,
                            "type": st.just("function"),
                            "function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT}),
                        }
                    ),
                    min_size=1,
                    max_size=2,
                ),
            }
        ),
        st.fixed_dictionaries(
            {"role": st.just("tool"), "tool_call_id": TEXT.filter(bool), "content": TEXT.filter(bool)}
        ),
    ),
    min_size=1,
    max_size=5,
)
FIELDS = st.fixed_dictionaries(
    {"messages": MESSAGES},
    optional={
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "seed": st.integers(-(2**63), 2**63),
        "n": st.integers(1, 4),
        "stop": st.one_of(TEXT, st.lists(TEXT, max_size=4)),
        "stream": st.booleans(),
        "max_tokens": st.integers(1, 4000),
        "frequency_penalty": st.floats(-2, 2),
        "logprobs": st.booleans(),
        "tools": st.lists(st.just(TOOL), max_size=3),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
        "user": TEXT,
        "logit_bias": st.dictionaries(st.from_regex(r"[0-9]{1,5}", fullmatch=True), st.integers(-100, 100)),
    },
)


@patient
@given(FIELDS, st.booleans())
def test_whatever_is_asked_is_a_request_that_oracles_models_allow(fields: dict[str, Any], ascii_only: bool) -> None:
    raw = json.dumps({"model": "r", **fields}, ensure_ascii=ascii_only).encode()
    found = json.loads(translated(raw).body)
    _oci_input.check(found)
    texts = [part["text"] for message in found["chatRequest"]["messages"] for part in message.get("content", ())]
    assert texts == [
        message["content"] for message in fields["messages"] if message["content"] or not message.get("tool_calls")
    ]
    arguments = [c["arguments"] for m in found["chatRequest"]["messages"] for c in m.get("toolCalls", ())]
    assert arguments == [c["function"]["arguments"] for m in fields["messages"] for c in m.get("tool_calls", ())]


def test_the_models_refuse_what_a_careless_request_would_hold() -> None:
    """The check above can fail."""
    wrong = json.loads(translated(body()).body)
    wrong["chatRequest"]["stream_options"] = {"include_usage": True}
    with pytest.raises(Refusal, match="400"):
        _oci_input.check(wrong)
