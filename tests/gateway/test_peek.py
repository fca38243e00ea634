"""Reading and rewriting request bodies in place, against the standard library's idea of the same JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ClientError
from gateway.peek import Peeked, peek, rewrite, spans

blanks = st.text(" \t\n\r", max_size=3)
texts = st.text(st.characters(codec="utf-8"), max_size=6)
names = st.sampled_from(["model", "stream", "stream_options", "messages", "é", 'a"b', "", "x", "\u2028", "😀"]) | texts
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A JSON object written in an odd hand: white space anywhere, keys and values escaped or not."""
    members = draw(st.dictionaries(names, values, max_size=6))

    def written(value: Any) -> str:
        indent = draw(st.sampled_from([None, None, 1]))
        return json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent)

    def gap() -> str:
        return draw(blanks)

    inner = ",".join(f"{gap()}{written(k)}{gap()}:{gap()}{written(v)}{gap()}" for k, v in members.items())
    return f"{gap()}{{{inner or gap()}}}{gap()}".encode(), members


def strict(raw: bytes) -> Any:
    return json.loads(raw)


@given(objects())
def test_each_field_is_found_where_it_stands(found: tuple[bytes, dict[str, Any]]) -> None:
    body, members = found
    places = spans(body)
    assert list(places) == list(members)
    for name, span in places.items():
        assert strict(body[span.start : span.end]) == members[name]
        assert body[span.key : span.key + 1] == b'"'
        assert strict(body[span.key : body.index(b":", _key_end(body, span.key))]) == name


def _key_end(body: bytes, at: int) -> int:
    """Where the string that opens at `at` ends."""
    at += 1
    while body[at : at + 1] != b'"':
        at += 2 if body[at : at + 1] == b"\\" else 1
    return at


changes_ = st.dictionaries(
    names, st.none() | st.sampled_from([b'"r"', b"1", b'{"include_usage":true}', b"[1,2]"]), max_size=4
)


@given(objects(), changes_)
def test_a_rewrite_changes_what_it_says_and_nothing_else(
    found: tuple[bytes, dict[str, Any]], changes: dict[str, bytes | None]
) -> None:
    body, members = found
    out = rewrite(body, spans(body), changes)
    expected = {name: value for name, value in members.items() if changes.get(name, b"") is not None}
    expected |= {name: strict(value) for name, value in changes.items() if value is not None}
    assert strict(out) == expected
    left = [name for name in strict(out) if name in members]
    assert left == [name for name in members if name in expected], "the order stays"
    before, after = spans(body), spans(out)
    for name in members:
        if name not in changes:
            here, there = before[name], after[name]
            assert body[here.start : here.end] == out[there.start : there.end], "untouched bytes stay"
    if changes and None not in changes.values() and changes.keys() <= members.keys():
        longer = sum(len(value or b"") - (before[n].end - before[n].start) for n, value in changes.items())
        assert len(out) == len(body) + longer, "white space stays"


@given(objects(), st.data())
def test_a_name_that_stands_twice_is_refused_however_it_is_written(
    found: tuple[bytes, dict[str, Any]], data: st.DataObject
) -> None:
    body, members = found
    if not members:
        return
    name = data.draw(st.sampled_from(sorted(members)))
    key = data.draw(st.sampled_from([json.dumps(name), _escaped(name)]))
    value = data.draw(st.sampled_from([json.dumps(members[name]), "0"]))
    at = body.index(b"{") + 1
    twice = body[:at] + f"{key}:{value},".encode() + body[at:]
    with pytest.raises(ClientError, match="stands twice") as raised:
        spans(twice)
    assert raised.value.status == 400
    raised.value.body()


def _escaped(text: str) -> str:
    units = text.encode("utf-16-be")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)) + '"'


@given(st.binary(max_size=40) | objects().map(lambda found: found[0][:-1]) | texts.map(str.encode))
def test_whatever_is_sent_is_read_or_refused_with_a_400(body: bytes) -> None:
    refused = None
    try:
        places = spans(body)
    except ClientError as error:
        refused = error
    if refused is None:
        assert list(strict(body)) == list(places)
    else:
        assert (refused.status, refused.code) == (400, "invalid_json")
        assert json.loads(refused.body())["error"]["message"]


BAD = {
    "not JSON": b"{]",
    "half": b'{"model":"m"',
    "empty": b"",
    "a list": b"[]",
    "text after the end": b'{"model":"m"}x',
    "NaN": b'{"model":"m","temperature":NaN}',
    "Infinity": b'{"model":"m","temperature":-Infinity}',
    "not UTF-8": b'{"model":"\xff"}',
    "a lone surrogate": b'{"model":"\\ud800"}',
    "a comment": b'{"model":"m"/**/}',
    "a trailing comma": b'{"model":"m",}',
    "too deep": b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too deep behind an escaped name": b'{"mode\\u006c":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a byte order mark": b'\xef\xbb\xbf{"model":"m"}',
    "two objects": b'{"model":"m"}{"model":"n"}',
    "a raw line break in a string": b'{"model":"m\n"}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(ClientError) as raised:
        peek(body, "chat/completions")
    assert (raised.value.status, raised.value.code) == (400, "invalid_json")


def test_a_number_of_any_length_is_left_alone() -> None:
    digits = b"1" * 50_000
    for key in (b'"x"', b'"\\u0078"'):
        body = b'{"model":"m",%b:%b}' % (key, digits)
        assert rewrite(body, spans(body), {"model": b'"n"'}) == b'{"model":"n",%b:%b}' % (key, digits)


def look(**fields: Any) -> Peeked:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields
    return peek(json.dumps(body).encode(), "chat/completions")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"model": 1}, "model"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"n": 0}, "n"),
        ({"n": "2"}, "n"),
        ({"n": 1e308}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**20}, "max_tokens"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"messages": "x"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"stop": 1}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options"),
        ({"response_format": "json"}, "response_format"),
        ({"base_url": "http://x"}, "base_url"),
        ({"api_base": "http://x"}, "api_base"),
        ({"api_key": "x"}, "api_key"),
        ({"extra_headers": {}}, "extra_headers"),
    ],
)
def test_a_wrong_type_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(ClientError) as raised:
        look(**fields)
    assert (raised.value.status, raised.value.code, raised.value.param) == (400, "invalid_request", name)
    assert name in raised.value.message


@pytest.mark.parametrize(
    ("fields", "features"),
    [
        ({}, set()),
        ({"stream": True}, {"stream"}),
        ({"stream": False, "n": 1, "seed": None, "stop": None, "tools": [], "logit_bias": {}}, set()),
        ({"n": 2, "seed": 0, "stop": "x"}, {"n", "seed", "stop"}),
        ({"frequency_penalty": 0, "presence_penalty": 0.0}, set()),
        ({"frequency_penalty": 0.1}, {"penalties"}),
        ({"logprobs": False}, set()),
        ({"logprobs": True}, {"logprobs"}),
        ({"tools": [{}]}, {"tools"}),
        ({"tools": [{}], "tool_choice": "auto"}, {"tools"}),
        (
            {"tools": [{}], "tool_choice": "required", "stream": True},
            {"tools", "tool_choice", "stream", "stream_tools"},
        ),
        ({"tools": [{}], "parallel_tool_calls": False}, {"tools", "parallel_tools"}),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"json_schema"}),
        ({"response_format": None}, set()),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, {"vision"}),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, {"audio"}),
    ],
)
def test_what_a_call_needs_is_seen(fields: dict[str, Any], features: set[str]) -> None:
    assert look(**fields).features == features | {"chat"}


KNOWN = [
    "model", "messages", "prompt", "input", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens",
    "stop", "seed", "tools", "functions", "tool_choice", "parallel_tool_calls", "response_format", "logprobs",
    "top_logprobs", "logit_bias", "frequency_penalty", "audio", "continue_final_message", "base_url",
]  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(KNOWN), values | st.sampled_from([10**400, 1e308, -1, 0, [[]], [{}], {"type": 1}])),
    st.sampled_from(["chat/completions", "completions", "embeddings"]),
)
def test_whatever_a_field_holds_it_is_understood_or_refused_with_a_400(fields: dict[str, Any], endpoint: Any) -> None:
    body = json.dumps({"model": "m", "messages": [{}], "prompt": "x", "input": "x", **fields}).encode()
    try:
        found = peek(body, endpoint)
    except ClientError as error:
        refused = error
    else:
        refused = None
        assert found.prompt_tokens >= 0
        assert found.choices >= 1
        least = 0 if endpoint == "completions" else 1  # none at all: the prompt's own logprobs, with echo
        assert found.max_output_tokens is None or found.max_output_tokens >= least
    assert refused is None or (refused.status == 400 and refused.param in (*KNOWN, None) and refused.body())
