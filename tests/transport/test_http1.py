"""The pure part: any cut of the bytes gives the same answer, and what is not HTTP/1.1 is refused."""

import itertools
from contextlib import suppress

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transport.http1 import MAX_FRAMING_BYTES, MAX_INTERIM_ANSWERS, Incoming, Malformed, request_head

TOKEN = st.text(
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=1, max_size=20
)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=40)
OURS = {"host", "content-length", "transfer-encoding"}
NAME = TOKEN.filter(lambda name: name.lower() not in OURS | {"connection"})
WORDS = st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\r\n", b"0\r\n\r\n", b"content-length: 3\r\n"])


def feed(*parts: bytes) -> Incoming:
    incoming = Incoming()
    for part in parts:
        incoming.feed(part)
    return incoming


# The request


@given(
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    target=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60).map("/".__add__),
    headers=st.lists(st.tuples(NAME, VALUE), max_size=8),
    body=st.binary(max_size=100),
)
def test_a_request_head_is_what_an_independent_parser_reads(
    method: str, target: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(request_head(method, target, "cloud.example:8443", headers, len(body)) + body)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (method.encode(), target.encode())
    assert [(name, value) for name, value in event.headers] == [
        (b"host", b"cloud.example:8443"),
        *((name.lower().encode(), value.encode("latin-1")) for name, value in headers),
        (b"content-length", str(len(body)).encode()),
    ]
    data = b""
    while isinstance(event := server.next_event(), h11.Data):
        data += event.data
    assert data == body
    assert isinstance(event, h11.EndOfMessage)


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\x00", "a\r\nx: y", "\x7f", "\u20ac"])
@pytest.mark.parametrize("part", ["method", "target", "host", "name", "value"])
def test_a_request_head_refuses_control_characters_in_every_part(part: str, bad: str) -> None:
    parts = {"method": "POST", "target": "/v1", "host": "h", "name": "x-name", "value": "v"}
    parts[part] += bad
    with pytest.raises(ValueError):
        request_head(parts["method"], parts["target"], parts["host"], [(parts["name"], parts["value"])], 0)


@pytest.mark.parametrize("name", ["host", "Content-Length", "transfer-encoding", "", "a b", "a:"])
def test_a_request_head_refuses_headers_it_writes_itself_and_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError):
        request_head("POST", "/", "h", [(name, "1")], 0)


@pytest.mark.parametrize("part", ["method", "target", "host"])
@pytest.mark.parametrize("bad", ["", "a b"])
def test_a_request_head_refuses_empty_parts_and_spaces(part: str, bad: str) -> None:
    parts = {"method": "POST", "target": "/v1", "host": "h"} | {part: bad}
    with pytest.raises(ValueError):
        request_head(parts["method"], parts["target"], parts["host"], [], 0)


def test_a_request_head_refuses_a_negative_length() -> None:
    with pytest.raises(ValueError):
        request_head("POST", "/", "h", [], -1)


# The answer

BODY = st.binary(max_size=200)
Answer = tuple[bytes, int, bytes, bool]  # bytes on the wire, status, body, whether it ends by its own framing
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    status = draw(st.sampled_from([200, 201, 400, 429, 503]))
    body = draw(BODY)
    headers = draw(st.lists(st.tuples(st.sampled_from(["x-a", "X-B", "server"]), VALUE), max_size=5))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
    interim = b"HTTP/1.1 100 Continue\r\nx-i: 1\r\n\r\n" * draw(st.integers(0, 2))
    start = interim + b"HTTP/1.1 %d Reason\r\n" % status + lines
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    if framing == "length":
        return start + b"content-length: %d\r\n\r\n" % len(body) + body, status, body, True
    if framing == "close":
        return start + b"\r\n" + body, status, body, False
    wire, rest = start + b"Transfer-Encoding: chunked\r\n\r\n", body
    while rest:
        size = draw(st.integers(1, len(rest)))
        extension = draw(st.sampled_from([b"", b";a=b"]))
        wire += b"%x%s\r\n%s\r\n" % (size, extension, rest[:size])
        rest = rest[size:]
    return wire + b"0\r\n" + draw(st.sampled_from([b"", b"x-trailer: t\r\n"])) + b"\r\n", status, body, True


@given(answer=answers(), cuts=st.lists(st.integers(0, 600), max_size=12))
def test_any_cut_of_an_answer_gives_the_same_answer(answer: Answer, cuts: list[int]) -> None:
    wire, status, body, framed = answer
    whole = feed(wire)
    places = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    parts = feed(*(wire[a:b] for a, b in itertools.pairwise(places)))
    for incoming in (whole, parts):
        assert incoming.end()
        assert (incoming.status, incoming.take(), incoming.reusable) == (status, body, framed)
    assert whole.headers == parts.headers
    assert "x-i" not in whole.headers
    assert "x-trailer" not in whole.headers


@given(answer=answers(), data=st.data())
def test_an_answer_cut_short_is_never_taken_for_whole(answer: Answer, data: st.DataObject) -> None:
    wire, _, _, framed = answer
    incoming = feed(wire[: data.draw(st.integers(0, len(wire) - 1))])
    assert not incoming.reusable
    if framed:
        assert not incoming.end()


@given(answer=answers())
def test_an_independent_parser_reads_the_same_answer(answer: Answer) -> None:
    wire = answer[0]
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    client.receive_data(b"")
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.InformationalResponse | h11.Response | h11.Data)
        if isinstance(event, h11.Response):
            theirs = event
        elif isinstance(event, h11.Data):
            body += event.data
    ours = feed(wire)
    joined: dict[str, str] = {}
    for name, value in theirs.headers:
        key, text = name.decode(), value.decode("latin-1")
        joined[key] = f"{joined[key]}, {text}" if key in joined else text
    assert ours.end()
    assert (ours.status, ours.headers, ours.take()) == (theirs.status_code, joined, body)


@given(st.lists(st.binary(max_size=60) | WORDS))
def test_no_bytes_do_worse_than_being_refused(parts: list[bytes]) -> None:
    incoming = Incoming()
    with suppress(Malformed):
        for part in parts:
            incoming.feed(part)
    assert len(incoming.take()) == incoming.received_bytes <= sum(map(len, parts))
    assert incoming.headed or not incoming.end()


REFUSED = {
    "no HTTP at all": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "length and chunked": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "chunked and length": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
    "a list of lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\n",
    "an empty length": b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
    "a length beyond 64 bits": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
    "a coding that is not chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
    "a second coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
    "a chunk size that is no number": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "a chunk size beyond 64 bits": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "a chunk longer than its size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "a folded header": b"HTTP/1.1 200 OK\r\nx-a: 1\r\n  2\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nx-a : 1\r\n\r\n",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nx-a: a\x00b\r\n\r\n",
    "an upgrade nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 What\r\ncontent-length: 0\r\n\r\n",
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM_ANSWERS + 1),
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * (MAX_FRAMING_BYTES // 4),
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 3_000,
    "a header without end": b"HTTP/1.1 200 OK\r\nx-a: " + b"b" * MAX_FRAMING_BYTES,
    "trailers without end": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    + b"x: "
    + b"b" * MAX_FRAMING_BYTES,
    "a chunk extension without end": CHUNKED + b"3;a=" + b"b" * MAX_FRAMING_BYTES,
}


@pytest.mark.parametrize("step", [1, 1000, 1_000_000], ids=["byte by byte", "in segments", "at once"])
@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_plainly_http_is_refused(wire: bytes, step: int) -> None:
    with pytest.raises(Malformed) as refused:
        feed(*(wire[start : start + step] for start in range(0, len(wire), step)))
    assert len(str(refused.value)) < 200


NOT_REUSABLE = {
    "it says close": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
    "it is HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
    "garbage follows": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhigarbage",
    "half an answer follows": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n",
    "an answer follows": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
    "garbage follows the last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nmore",
}


@pytest.mark.parametrize("wire", NOT_REUSABLE.values(), ids=NOT_REUSABLE.keys())
@pytest.mark.parametrize("step", [1, 1000], ids=["byte by byte", "at once"])
def test_an_answer_stands_but_its_connection_is_not_kept_when(wire: bytes, step: int) -> None:
    incoming = feed(*(wire[start : start + step] for start in range(0, len(wire), step)))
    assert incoming.complete
    assert incoming.take() == b"hi"
    assert not incoming.reusable


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_that_has_no_body_ends_with_its_head(status: int) -> None:
    incoming = feed(b"HTTP/1.1 %d X\r\ncontent-length: 10\r\n\r\n" % status)
    assert (incoming.complete, incoming.take(), incoming.reusable) == (True, b"", True)


def test_an_answer_to_HEAD_ends_with_its_head() -> None:  # noqa: N802
    incoming = Incoming(bodiless=True)
    incoming.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
    assert (incoming.complete, incoming.take()) == (True, b"")


def test_repeated_headers_are_joined_and_names_are_lower_case() -> None:
    incoming = feed(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: \xe9\r\nSERVER:\t s \r\ncontent-length: 0\r\n\r\n")
    assert incoming.headers == {"x-a": "1, \xe9", "server": "s", "content-length": "0"}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("timeout=5", 5.0), ("max=100, timeout=75", 75.0), ('Timeout="9"', 9.0), ("max=5", None), ("", None)],
)
def test_a_keep_alive_header_says_how_long(value: str, seconds: float | None) -> None:
    assert feed(f"HTTP/1.1 204 OK\r\nkeep-alive: {value}\r\n\r\n".encode()).keep_alive_s() == seconds


def test_a_flood_of_tiny_chunks_is_held_as_one_piece() -> None:
    incoming = feed(CHUNKED + b"1\r\na\r\n" * 40_000)
    assert (len(incoming.pieces), incoming.buffered_bytes) == (1, 40_000)
    incoming.feed(b"1\r\nb\r\n1\r\nc\r\n")
    assert len(incoming.pieces) == 2
    assert incoming.take() == b"a" * 40_000 + b"bc"


def test_what_was_taken_is_not_given_again() -> None:
    incoming = feed(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc", b"d")
    assert (incoming.take(), incoming.buffered_bytes, incoming.take()) == (b"abcd", 0, b"")
    incoming.feed(b"ef")
    assert (incoming.take(), incoming.received_bytes, incoming.complete) == (b"ef", 6, True)
