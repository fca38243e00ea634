"""Splitting streams into events, against the WHATWG algorithm written out line by line; and what an event says."""

import itertools
import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import sse
from gateway.errors import UpstreamError


def dispatched(stream: bytes) -> list[bytes]:
    """The data of each event that a browser would dispatch, by WHATWG HTML 9.2.6 and nothing else; and, beyond it, a
    last event of which only the empty line is missing."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    found: list[bytes] = []
    data: list[bytes] = []
    for line in re.split(rb"\r\n|\n|\r", stream):
        if not line:
            if data:
                found.append(b"\n".join(data))
            data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return [*found, b"\n".join(data)] if data else found


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The data of each event that our splitter gives for a stream that comes in pieces."""
    splitter = sse.Splitter()
    given: list[bytes] = []
    places = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    for start, end in itertools.pairwise(places):
        piece = splitter.feed(stream[start:end])
        assert piece == b"" or piece.endswith(b"\n\n"), "a piece holds whole events only"
        given.append(piece)
    given.append(splitter.rest())
    found = [sse.payload(event) for piece in given for event in sse.events(piece)]
    return [data for data in found if data]


lines = st.sampled_from(
    [b"data: a", b"data:b", b"data:  c", b"data", b"data: ", b": ping", b":", b"event: x", b"id: 1", b"retry: 5",
     b"datax: y", b"data: {\"x\":\"\xc3\xa9\"}", b"data: [DONE]", b"", b"", b""]
)  # fmt: skip
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
streams = st.lists(st.tuples(lines, ends) | st.tuples(st.binary(max_size=6), ends), max_size=14).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


@given(st.sampled_from([b"", b"\xef\xbb\xbf"]), streams, st.lists(st.integers(0, 10_000), max_size=12))
@example(b"", b"d", [1])
@example(b"", b"data: a\r\r\ndata: b\n\n", [8, 9])
@example(b"\xef\xbb\xbf", b"data: a\r\n\r\n", [1, 2])
def test_any_line_ending_cut_anywhere_gives_the_events_a_browser_would_dispatch(
    mark: bytes, stream: bytes, cuts: list[int]
) -> None:
    expected = [data for data in dispatched(mark + stream) if data]
    assert split(mark + stream, cuts) == expected
    assert split(mark + stream, list(range(len(mark + stream)))) == expected


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_plain_events_come_out_byte_for_byte(texts: list[bytes]) -> None:
    stream = b"".join(b"data: " + msgspec.json.encode(text.hex()) + b"\n\n" for text in texts)
    splitter = sse.Splitter()
    assert b"".join(splitter.feed(stream[at : at + 3]) for at in range(0, len(stream), 3)) == stream
    assert splitter.rest() == b""


def test_an_event_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = sse.Splitter()
    piece = b"data: " + b"x" * 1_000_000
    for _ in range(sse.MAX_EVENT_BYTES // len(piece)):
        assert splitter.feed(piece) == b""
    with pytest.raises(UpstreamError) as raised:
        splitter.feed(piece)
    assert raised.value.kind == "too_large"


@given(st.binary(max_size=60) | st.sampled_from([b"[DONE]", b"{}", b"[]", b"null", b'"x"', b"{" * 5000]))
def test_whatever_an_event_holds_it_says_something_or_is_an_upstream_error(data: bytes) -> None:
    for payload in (
        data,
        b'{"choices":[{"text":"%b"}]}' % data,
        b'{"choices":[{"delta":{"content":"%b"}}]}' % data,
        b'{"choices":[{"finish_reason":"%b"}]}' % data,
        b'{"error":{"message":"%b"}}' % data,
        b'{"error":%b}' % data,
        b'{"usage":%b}' % data,
    ):
        assert meaning(payload) in {"comment", "done", "content", "opening", "usage", "error", "other", "shape"}


def meaning(data: bytes) -> str:
    try:
        return sse.said(sse.event(data)).kind
    except UpstreamError as error:
        return error.kind


@pytest.mark.parametrize(
    ("data", "kind", "finished"),
    [
        (b'{"choices":[{"delta":{"content":"x"}}]}', "content", 0),
        (b'{"choices":[{"delta":{"role":"assistant","content":""}}]}', "opening", 0),
        (b'{"choices":[{"delta":{"role":"assistant","content":null}}]}', "opening", 0),
        (b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', "content", 0),
        (b'{"choices":[{"delta":{"tool_calls":[]}}]}', "opening", 0),
        (b'{"choices":[{"delta":{"reasoning_content":"x"}}]}', "content", 0),
        (b'{"choices":[{"delta":{"refusal":"x"}}]}', "content", 0),
        (b'{"choices":[{"text":"x"}]}', "content", 0),
        (b'{"choices":[{"text":"","finish_reason":null}]}', "opening", 0),
        (b'{"choices":[{"delta":{},"finish_reason":"stop"}]}', "content", 1),
        (b'{"choices":[{"delta":{},"finish_reason":""}]}', "opening", 0),
        (b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"length"}]}', "content", 2),
        (b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', "usage", 0),
        (b'{"choices":[],"prompt_filter_results":[]}', "other", 0),
        (b"[DONE]", "done", 0),
        (b" [DONE]", "done", 0),
        (b"", "comment", 0),
        (b'{"error":null,"choices":[{"delta":{"content":"x"}}]}', "content", 0),
    ],
)
def test_what_an_event_says(data: bytes, kind: str, finished: int) -> None:
    said = sse.said(sse.event(data))
    assert (said.kind, said.finished) == (kind, finished)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (b'{"code":429}', 429),
        (b'{"code":"503"}', 503),
        (b'{"code":"rate_limit_exceeded"}', 429),
        (b'{"type":"invalid_request_error"}', 400),
        (b'{"code":8,"status":"RESOURCE_EXHAUSTED"}', 429),
        (b'{"code":99999}', 0),
        (b'{"code":-400}', 0),
        (b'"text"', 0),
        (b'{"code":{"a":1}}', 0),
        (b"true", 0),
    ],
)
def test_an_error_event_stands_for_the_status_it_names(error: bytes, status: int) -> None:
    said = sse.said(sse.event(b'{"error":%b}' % error))
    assert said.error is not None
    assert (said.kind, said.error.status, said.error.kind) == ("error", status, "error_event")
