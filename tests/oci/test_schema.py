"""Schemas for Oracle: references written out in place, nothing else changed, and what cannot be written out refused."""

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from providers._oci_schema import MAX_NODES, SchemaError, plain
from tests.oci.calls import patient, translated


def written(schema: Any, *, unions: bool = False) -> Any:
    return json.loads(plain(json.dumps(schema).encode(), unions=unions).schema)


def test_a_schema_without_references_keeps_its_bytes() -> None:
    raw = b'{ "type" : "number", "minimum": 0.10, "x": 12345678901234567890123 }'
    assert plain(raw, unions=False).schema is raw


def test_references_are_written_out_where_they_stand() -> None:
    schema = {
        "$defs": {
            "Place": {"type": "object", "properties": {"name": {"$ref": "#/$defs/Name"}}},
            "Name": {"type": "string"},
        },
        "type": "object",
        "properties": {
            "from": {"$ref": "#/$defs/Place", "description": "where"},
            "to": {"type": "array", "items": {"$ref": "#/$defs/Place"}},
        },
    }
    place = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert written(schema) == {
        "type": "object",
        "properties": {"from": {**place, "description": "where"}, "to": {"type": "array", "items": place}},
    }


def test_older_definitions_and_pointers_with_escapes_are_followed() -> None:
    schema = {"definitions": {"a/b~c": {"type": "null"}}, "items": {"$ref": "#/definitions/a~1b~0c"}}
    assert written(schema) == {"items": {"type": "null"}}


def test_a_property_may_be_called_as_a_keyword_is() -> None:
    schema = {"type": "object", "properties": {"$ref": {"type": "string"}, "$defs": {"type": "string"}, "anyOf": True}}
    assert written(schema) == schema


def test_values_that_look_like_schemas_are_left_alone() -> None:
    schema = {"enum": [{"$ref": "#/x"}], "default": {"$ref": "#/x"}, "const": {"anyOf": []}}
    assert written(schema) == schema


def test_numbers_keep_their_text() -> None:
    raw = b'{"$defs":{"A":{"minimum":0.10,"maximum":1e400,"x":123456789012345678901234567890}},"$ref":"#/$defs/A"}'
    assert plain(raw, unions=False).schema == b'{"minimum":0.10,"maximum":1e400,"x":123456789012345678901234567890}'


def test_a_kind_or_null_is_that_kind_for_tools_and_is_told() -> None:
    schema = {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "A"}}}
    found = plain(json.dumps(schema).encode(), unions=False)
    assert json.loads(found.schema) == {"properties": {"a": {"type": "string", "title": "A"}}}
    assert found.nullable
    kept = plain(json.dumps(schema).encode(), unions=True)
    assert (json.loads(kept.schema), kept.nullable) == (schema, False)


def test_other_unions_stay() -> None:
    schema = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]}
    assert written(schema) == schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$defs": {"T": {"properties": {"next": {"$ref": "#/$defs/T"}}}}, "$ref": "#/$defs/T"}, "refers to itself"),
        ({"properties": {"me": {"$ref": "#"}}}, "refers to itself"),
        ({"$ref": "https://example.test/schema"}, "another document"),
        ({"$ref": "#/$defs/Missing"}, "refers to nothing"),
        ({"items": [{"$ref": "#/items/9"}]}, "refers to nothing"),
    ],
)
def test_what_cannot_be_written_out_is_refused_with_the_reason(schema: Any, why: str) -> None:
    with pytest.raises(SchemaError, match=why):
        written(schema)
    with pytest.raises(UpstreamError) as error:
        translated(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
    assert why in error.value.detail.message
    assert error.value.detail.param == "tools"


def test_a_few_references_that_grow_without_end_are_refused_in_time() -> None:
    definitions = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 10} for n in range(20)}
    definitions["d20"] = {"type": "string"}
    with pytest.raises(SchemaError, match=str(MAX_NODES)):
        written({"$defs": definitions, "$ref": "#/$defs/d0"})


LEAVES = st.sampled_from([{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"$ref": "#/$defs/A"}])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda a, b: {"type": "object", "properties": {"a": a, "b": b}, "required": ["a"]}, inner, inner),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner),
    ),
    max_leaves=8,
)
VALUES = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=6,
)


@patient
@given(SCHEMAS, VALUES)
def test_the_same_values_are_valid_before_and_after(schema: Any, value: Any) -> None:
    whole = {**schema, "$defs": {"A": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
    after = written(whole, unions=True)
    assert b"$ref" not in json.dumps(after).encode()
    validator = jsonschema.Draft202012Validator
    assert validator(whole).is_valid(value) == validator(after).is_valid(value)
