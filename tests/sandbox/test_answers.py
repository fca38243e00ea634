"""Answers are made from the request: the same again, exactly as long as asked, valid where a schema is given."""

import json
import struct
from base64 import b64decode
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.answers import Ask, answer, key_of, packed, token_at, tokens_of, vector_for
from sandbox.prompt import prompt_tokens, turns_of
from sandbox.run import Sandbox
from sandbox.schema import value_for
from tests.sandbox.wire import OPENAI_SHAPED, call, caller_of

USER = {"role": "user", "content": "Tell me of llamas."}


def text(**fields: Any) -> str:
    return answer(Ask(key=key_of("a"), **fields))[0].text


@given(st.text())
def test_tokens_joined_are_the_text(value: str) -> None:
    assert "".join(tokens_of(value)) == value


@given(st.integers(0, 2**64 - 1), st.integers(0, 400))
def test_an_answer_of_n_tokens_counts_as_n_tokens(key: int, length: int) -> None:
    made = "".join(token_at(key, place) for place in range(length))
    assert len(tokens_of(made)) == length


def test_a_text_has_as_many_tokens_as_asked_and_says_length() -> None:
    made = answer(Ask(key=1, length=500))[0]
    assert (len(made.pieces), made.generated, made.finish) == (500, 500, "length")
    assert made.text.split()[1:4] == ["w0001", "w0002", "w0003"]
    assert not made.text.isascii()


def test_without_a_length_it_ends_by_itself() -> None:
    made = answer(Ask(key=1, natural_length=20))[0]
    assert (made.generated, made.finish) == (20, "stop")


@given(st.integers(0, 60), st.integers(1, 60))
def test_going_on_from_a_prefix_gives_the_rest_of_the_same_answer(cut: int, length: int) -> None:
    whole = answer(Ask(key=7, length=cut + length))[0].pieces
    rest = answer(Ask(key=7, length=length, prefix="".join(whole[:cut])))[0]
    assert rest.pieces == whole[cut:]


@given(st.integers(1, 200))
def test_going_on_within_a_token_loses_and_doubles_nothing(cut: int) -> None:
    whole = text(length=60)
    rest = text(length=60, prefix=whole[:cut])
    assert (whole[:cut] + rest).startswith(whole)


def test_a_foreign_prefix_is_answered_all_the_same() -> None:
    assert len(tokens_of(text(length=5, prefix="Once upon a time"))) == 5


@pytest.mark.parametrize("stop", ["w0004", " w0004", "0004", "04 w00", "w0003 w0004"])
def test_a_stop_string_is_not_shown_and_its_tokens_count(stop: str) -> None:
    whole = text(length=30)
    made = answer(Ask(key=key_of("a"), length=30, stop=["nowhere", stop]))[0]
    assert made.text == whole[: whole.index(stop)]
    assert (made.finish, made.stop_hit) == ("stop", stop)
    assert made.generated == len(tokens_of(whole[: whole.index(stop) + len(stop)]))


def test_choices_differ_and_the_first_is_the_single_one() -> None:
    single, several = answer(Ask(key=9, length=9)), answer(Ask(key=9, length=9, choices=3))
    assert len({choice.text for choice in several}) == 3
    assert several[0].text == single[0].text


def test_the_prompt_decides_not_the_cloud_or_its_form() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": USER["content"]}]}]
    assert turns_of([USER]) == turns_of(parts)
    assert turns_of([{"role": "developer", "content": "x"}]) == turns_of([{"role": "system", "content": "x"}])
    assert turns_of([USER]) != turns_of([{"role": "system", "content": "Be brief."}, USER])
    assert prompt_tokens(turns_of([USER, USER])) > prompt_tokens(turns_of([USER]))


# ---------------------------------------------------------------------- tools
WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME = {
    "name": "get_time",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]


@pytest.mark.parametrize(
    ("fields", "names", "finish"),
    [
        ({}, ["get_weather"], "tool_calls"),
        ({"user_text": "please get_time now"}, ["get_time"], "tool_calls"),
        ({"tool_choice": "none"}, [], "stop"),
        ({"tool_choice": "required", "after_tool": True}, ["get_weather"], "tool_calls"),
        ({"tool_choice": {"type": "function", "function": {"name": "get_time"}}}, ["get_time"], "stop"),
        ({"after_tool": True}, [], "stop"),
        ({"parallel_tools": True}, ["get_weather", "get_time"], "tool_calls"),
    ],
)
def test_which_tools_are_called(fields: dict[str, Any], names: list[str], finish: str) -> None:
    made = answer(Ask(key=3, tools=TOOLS, **fields))[0]
    assert ([c.name for c in made.calls], made.finish) == (names, finish)
    for made_call in made.calls:
        schema = next(t["function"]["parameters"] for t in TOOLS if t["function"]["name"] == made_call.name)
        jsonschema.validate(json.loads(made_call.arguments), schema)


def test_too_short_a_limit_cuts_the_arguments() -> None:
    made = answer(Ask(key=3, tools=TOOLS, length=4))[0]
    assert (made.finish, made.generated) == ("length", 4)
    with pytest.raises(json.JSONDecodeError):
        json.loads(made.calls[0].arguments)


# ---------------------------------------------------------------------- schemas


def _range(kind: str, low: int, room: int) -> dict[str, Any]:
    return {"type": kind, "minimum": low, "maximum": low + room}


def _between(low: int, room: int) -> dict[str, Any]:
    return {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + room}


def _string(least: int, room: int) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": least + room}


def _list(item: Any, least: int, room: int) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": least, "maxItems": least + room}


FORMATS = st.sampled_from(["date", "date-time", "email", "uuid", "ipv4", "uri"])
VALUES = st.one_of(st.integers(), st.text(), st.none())
SCALARS = st.one_of(
    st.builds(_range, st.sampled_from(["integer", "number"]), st.integers(-99, 99), st.integers(0, 9)),
    st.builds(_between, st.integers(-9, 9), st.integers(1, 9)),
    st.builds(_string, st.integers(0, 40), st.integers(0, 5)),
    st.builds(lambda step: {"type": "integer", "multipleOf": step}, st.integers(1, 9)),
    st.builds(lambda high: {"type": "integer", "maximum": high}, st.integers(-99, 99)),
    st.builds(lambda word: {"type": "string", "format": word}, FORMATS),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, st.one_of(VALUES, st.lists(st.integers()))),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}, True]),
)


def _object(properties: dict[str, Any], required: int, closed: bool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties)[:required],
        "additionalProperties": not closed,
    }


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(st.text(max_size=5), inner, max_size=4), st.integers(0, 4), st.booleans()),
        st.builds(_list, inner, st.integers(0, 3), st.integers(0, 3)),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one: {"allOf": [one]}, inner),
        st.builds(lambda items: {"type": "array", "prefixItems": items}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.integers(0, 2**64 - 1))
def test_the_value_for_a_schema_is_valid(schema: Any, key: int) -> None:
    value = value_for(schema, key)
    jsonschema.Draft202012Validator(schema).validate(value)
    assert json.loads(json.dumps(value)) == value


def test_references_and_recursion_come_to_an_end() -> None:
    tree = {
        "$defs": {"node": {"type": "object", "properties": {
            "name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        }, "required": ["name", "parent"], "additionalProperties": False}},
        "$ref": "#/$defs/node",
    }  # fmt: skip
    jsonschema.Draft202012Validator(tree).validate(value_for(tree, 5))


# ---------------------------------------------------------------------- vectors
def test_vectors_are_of_unit_length_and_the_same_packed() -> None:
    vector = vector_for("llama", 256)
    assert abs(sum(n * n for n in vector) - 1) < 1e-9
    assert vector == vector_for("llama", 256) != vector_for("alpaca", 256)
    assert struct.unpack("<256f", b64decode(packed(vector))) == pytest.approx(vector)


# ---------------------------------------------------------------------- over the wire
async def test_the_same_call_has_the_same_answer_at_every_cloud(box: Sandbox) -> None:
    texts = {cloud: (await call(box, cloud)).json()["choices"][0]["message"]["content"] for cloud in OPENAI_SHAPED}
    assert len(set(texts.values())) == 1
    other = await call(box, "vllm", messages=[{"role": "system", "content": "Be brief."}, USER])
    assert other.json()["choices"][0]["message"]["content"] not in texts.values()


async def test_seed_changes_the_answer_and_length_does_not(box: Sandbox) -> None:
    async def said(**body: Any) -> str:
        content: str = (await call(box, "vllm", **body)).json()["choices"][0]["message"]["content"]
        return content

    plain = await said()
    assert await said(seed=1) == await said(seed=1) != plain
    assert (await said(max_tokens=40)).startswith(plain)


@pytest.mark.parametrize("cloud", ["vllm", "groq"])
async def test_a_cut_answer_can_be_gone_on_from(box: Sandbox, cloud: str) -> None:
    whole = (await call(box, cloud, max_tokens=20)).json()["choices"][0]["message"]["content"]
    half = (await call(box, cloud, max_tokens=9)).json()["choices"][0]["message"]["content"]
    flags = {"continue_final_message": True, "add_generation_prompt": False} if cloud == "vllm" else {}
    messages = [USER, {"role": "assistant", "content": half}]
    rest = (await call(box, cloud, messages=messages, max_tokens=11, **flags)).json()["choices"][0]["message"][
        "content"
    ]
    assert half + rest == whole


@pytest.mark.parametrize("cloud", ["vllm", "groq", "vertex", "databricks", "openai"])
async def test_streamed_tool_calls_join_to_the_plain_ones(box: Sandbox, cloud: str) -> None:
    asked = {"model": caller_of(cloud, box), "tools": TOOLS, "max_tokens": 200}
    plain = (await call(box, cloud, **asked)).json()["choices"][0]
    stream = await call(box, cloud, **asked, stream=True)
    deltas = [c["delta"]["tool_calls"][0] for v in stream.data() for c in v["choices"] if c["delta"].get("tool_calls")]
    function = plain["message"]["tool_calls"][0]["function"]
    assert deltas[0]["function"]["name"] == function["name"] == "get_weather"
    assert "".join(delta["function"].get("arguments", "") for delta in deltas) == function["arguments"]
    assert len(deltas) > 3
    assert stream.finish() == plain["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("cloud", ["vllm", "vertex", "databricks", "nim", "openai"])
async def test_a_json_schema_is_kept_to(box: Sandbox, cloud: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    seen = await call(box, cloud, response_format=form, max_tokens=200)
    jsonschema.validate(json.loads(seen.json()["choices"][0]["message"]["content"]), schema)
