"""Failure catalogue B7 to B12 and the stream contract: what is whole is whole, and what is not says so."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.failures.stage import (
    DONE,
    GOOD,
    ROLE,
    WORDS,
    Stage,
    answering,
    stage,
    streaming,
    timeouts,
    usage,
    whole,
)
from tests.harness import PATIENCE_S, STREAM_HEAD, Answer, Connection, answer_bytes, caller, chat, chunk, delta

TEXTS = [f"{n} " for n in range(8)]
Framing = Callable[[Any], bytes]


def assert_incomplete(on: Stage, answer: Answer, texts: list[str]) -> None:
    """Exactly these texts, one stream_incomplete, no [DONE], no finish_reason; settled as such."""
    assert answer.status == 200
    assert (answer.deltas, answer.finishes, answer.done) == (texts, [], False)
    assert answer.fault is not None
    assert (answer.fault["code"], answer.fault["type"]) == ("stream_incomplete", "server_error")
    assert answer.events.count(answer.events[-1]) == 1
    line = on.served.calls()[-1]
    assert (line["status"], line["code"]) == (200, "stream_incomplete")
    assert line["output_tokens"] == len(texts)
    kept = on.served.decisions()[0].attempts[-1]
    assert kept.cost_estimated
    assert kept.outcome not in ("ok", "client_gone")


def assert_whole(answer: Answer, texts: list[str]) -> None:
    assert answer.status == 200
    assert answer.whole
    assert (answer.deltas, answer.done, answer.fault) == (texts, True, None)
    assert answer.finishes == ["stop"]
    assert {found["model"] for found in answer.chunks} == {"r"}


@pytest.mark.parametrize("end", ["reset", "close", "end"])
@pytest.mark.parametrize("count", [1, 5, 8])
async def test_b7_b8_a_stream_cut_after_n_tokens_gives_exactly_those_and_says_that_it_is_incomplete(
    count: int, end: str
) -> None:
    script = streaming(ROLE, *map(delta, TEXTS[:count]), end=end)
    async with stage(script, GOOD) as on, caller(on.served) as client:
        await client.send(on.request(chat(stream=True)))
        answer = await client.answer()
        await on.served.at_rest()
        assert_incomplete(on, answer, TEXTS[:count])
        assert await client.closed() == b""  # the connection ends with it
        assert on.asked() == [1, 0]  # what was begun is never begun again elsewhere
        assert on.facts().failures == 1


@pytest.mark.parametrize("end", ["reset", "close", "end"])
async def test_b8_a_stream_cut_after_its_finish_reason_is_whole_and_gets_its_done(end: str) -> None:
    async with stage(streaming(*whole(*TEXTS)[:-1], end=end)) as on:
        assert_whole(await on.stream(), TEXTS)
        assert on.facts().failures == 0
        assert on.served.calls()[0]["code"] is None


@pytest.mark.parametrize("end", ["reset", "close", "end", "stall"])
async def test_b8_a_stream_cut_after_done_is_whole(end: str) -> None:
    async with stage(streaming(*whole(*TEXTS), end=end)) as on:
        assert_whole(await on.stream(), TEXTS)
        assert on.facts().failures == 0


async def test_b8_a_finish_reason_for_one_of_two_choices_is_not_the_end() -> None:
    other = delta("x").replace(b'"index":0', b'"index":1')
    async with stage(streaming(delta("x"), other, delta(None, "stop"), end="close")) as on:
        answer = await on.stream(n=2)
        assert answer.fault is not None
        assert (answer.finishes, answer.done, answer.fault["code"]) == (["stop"], False, "stream_incomplete")


async def test_b8_an_account_that_never_sends_a_marker_may_end_without() -> None:
    script = streaming(ROLE, *map(delta, TEXTS))
    async with stage(script, account={"stream_end": "close"}) as on:
        answer = await on.stream()
        assert (answer.deltas, answer.done, answer.fault) == (TEXTS, True, None)
    async with stage(streaming(delta("x"), end="reset"), account={"stream_end": "close"}) as on:
        assert_incomplete(on, await on.stream(), ["x"])  # a break is a break


@pytest.mark.parametrize(
    "half", [b'data: {"choices":[{"delta":{"content":"ha', b'data: {"choices"', b"data: [DO", b"da"]
)
@pytest.mark.parametrize("end", ["reset", "close", "end"])
async def test_b8_half_an_event_is_never_given_to_the_client(half: bytes, end: str) -> None:
    async with stage(streaming(*map(delta, TEXTS), half, end=end)) as on:
        assert_incomplete(on, await on.stream(), TEXTS)


async def test_b8_the_last_event_needs_no_empty_line() -> None:
    async with stage(streaming(*whole(*TEXTS)[:-1], b"data: [DONE]\n")) as on:
        assert_whole(await on.stream(), TEXTS)
    async with stage(streaming(*whole(*TEXTS)[:-2], delta(None, "stop")[:-2])) as on:
        assert_whole(await on.stream(), TEXTS)


async def test_b9_a_stalled_stream_is_cut_at_the_idle_limit() -> None:
    script = streaming(ROLE, *map(delta, TEXTS), end="stall")
    async with stage(script, account=timeouts(idle_s=0.4)) as on:
        answer = await on.stream()
        assert_incomplete(on, answer, TEXTS)
        assert 0.35 < answer.seconds < 0.9
        await asyncio.wait_for(on.clouds[0].gone.wait(), PATIENCE_S)


@pytest.mark.parametrize("before", [[], [ROLE]], ids=["head only", "role only"])
async def test_b10_silence_before_the_first_content_fails_over(before: list[bytes]) -> None:
    async with stage(streaming(*before, end="stall"), GOOD, account=timeouts(first_byte_s=0.3)) as on:
        answer = await on.stream()
        assert_whole(answer, WORDS)
        assert 0.25 < answer.seconds < 1.5
        assert answer.headers["x-arriero-deployment"] == "b"
    async with stage(streaming(*before, end="stall"), account=timeouts(first_byte_s=0.2)) as on:
        answer = await on.stream()
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


NOISE = [
    [b": ping\n\n"],
    [b":\n"],
    [b": data: not data\n\n"],
    [b": pi", b"ng\n\n"],
    [b":", b" data", b"\n\n"],
    [b"event: ping\n\n"],
    [b"event: data\n", b"\n"],
    [b"\n"],
    [b"\r\n"],
    [b"id: 7\nretry: 10\n\n"],
]


@pytest.mark.parametrize("began", [True, False], ids=["after content", "before content"])
async def test_b11_what_is_not_data_does_not_hide_a_stall(began: bool) -> None:
    async def noisy(connection: Connection) -> None:
        request = await connection.request()
        noise = NOISE[json.loads(request.partition(b"\r\n\r\n")[2])["seed"]]
        await connection.send(STREAM_HEAD + (chunk(delta("x")) if began else b""))
        while not connection.reader.at_eof():
            for piece in noise:
                await connection.send(chunk(piece))
                await asyncio.sleep(0.03)

    async with stage(noisy, GOOD, account=timeouts(idle_s=0.4, first_byte_s=0.4)) as on:
        answers = await asyncio.gather(*(on.stream(seed=n) for n in range(len(NOISE))))
        for noise, answer in zip(NOISE, answers, strict=True):
            assert 0.35 < answer.seconds < 2.0, noise
            if began:
                assert answer.fault is not None, noise
                assert (answer.deltas, answer.done) == (["x"], False), noise
            else:
                assert_whole(answer, WORDS)
        assert on.asked() == [len(NOISE), 0 if began else len(NOISE)]


async def test_b11_a_slow_stream_of_data_is_not_a_stall_even_within_one_event() -> None:
    async def slow(connection: Connection) -> None:
        await connection.request()
        await connection.send(STREAM_HEAD + chunk(delta("a")))
        event = delta("b" * 12)
        for at in range(0, len(event), 20):
            await asyncio.sleep(0.1)
            await connection.send(chunk(event[at : at + 20]))
        await connection.send(chunk(delta(None, "stop") + DONE) + chunk(b""))

    async with stage(slow, account=timeouts(idle_s=0.5)) as on:
        assert_whole(await on.stream(), ["a", "b" * 12])


def error_event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"error": fields}).encode() + b"\n\n"


B12 = [
    (error_event(message="secret-7", type="server_error", code=500), 502, "upstream_error"),
    (error_event(message="secret-7", code=503), 503, "upstream_error"),
    (error_event(message="secret-7", type="overloaded_error"), 503, "upstream_error"),
    (error_event(message="secret-7", code="429"), 429, "upstream_rate_limited"),
    (error_event(message="secret-7", code="rate_limit_exceeded"), 429, "upstream_rate_limited"),
    (error_event(message="secret-7", type="authentication_error"), 502, "upstream_auth"),
    (error_event(message="secret-7"), 502, "upstream_error"),
    (b'data: {"error":"secret-7"}\n\n', 502, "upstream_error"),
    (b'event: error\ndata: {"error":{"message":"secret-7"}}\n\n', 502, "upstream_error"),
    (b'event: error\ndata: {"message":"secret-7","type":"server_error"}\n\n', 502, "upstream_error"),
    (b'data: {"object":"error","message":"secret-7","type":"x","code":500}\n\n', 502, "upstream_error"),
    (b'data: [{"error":{"code":503,"message":"secret-7","status":"UNAVAILABLE"}}]\n\n', 503, "upstream_error"),
    (b'data: {"error_code":"REQUEST_LIMIT_EXCEEDED","message":"secret-7"}\n\n', 429, "upstream_rate_limited"),
    (b'data: {"status":500,"title":"Internal Server Error","detail":"secret-7"}\n\n', 502, "upstream_error"),
]


@pytest.mark.parametrize("before", [[], [ROLE], [b": ping\n\n"]], ids=["first", "after the role", "after a comment"])
async def test_b12_an_error_that_comes_before_any_content_is_a_real_status_or_a_failover(before: list[bytes]) -> None:
    faults = [b"".join(map(chunk, [*before, event, b""])) for event, _, _ in B12]
    answers = [STREAM_HEAD + fault for fault in faults]
    async with stage(answering(*answers)) as on:
        for event, status, code in B12:
            answer = await on.stream()
            assert (answer.status, answer.error["code"]) == (status, code), event
            assert b"secret-7" not in answer.body
    async with stage(answering(*answers), GOOD) as on:
        for _ in B12:
            assert_whole(await on.stream(), WORDS)
        assert on.asked() == [len(B12), len(B12)]


async def test_b12_a_first_event_that_says_400_is_the_callers_400() -> None:
    event = error_event(message="max_tokens is too large", type="invalid_request_error", param="max_tokens", code=400)
    async with stage(streaming(event), GOOD) as on:
        answer = await on.stream()
        assert (answer.status, answer.error["message"]) == (400, "max_tokens is too large")
        assert on.asked() == [1, 0]


@pytest.mark.parametrize("event", [event for event, _, _ in B12])
async def test_b13_an_error_event_in_the_middle_ends_the_stream_as_incomplete_and_is_not_shown(event: bytes) -> None:
    async with stage(streaming(ROLE, *map(delta, TEXTS), event, *map(delta, TEXTS), DONE), GOOD) as on:
        answer = await on.stream()
        assert_incomplete(on, answer, TEXTS)
        assert b"secret-7" not in answer.body
        assert on.asked() == [1, 0]


def lines(*before: str, separators: tuple[str, str] = (",", ":"), prefix: str = "data: ", end: str = "\n") -> Framing:
    """An event as these lines before its data, JSON with these separators, and so on."""

    def frame(value: Any) -> bytes:
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=separators)
        return end.join([*before, *(prefix + line for line in data.split("\n")), "", ""]).encode()

    return frame


FRAMINGS: dict[str, Framing] = {
    "plain": lines(),
    "CRLF": lines(end="\r\n"),
    "CR": lines(end="\r"),
    "no space": lines(prefix="data:"),
    "no space, CRLF": lines(prefix="data:", end="\r\n"),
    "spaced JSON": lines(separators=(", ", ": ")),
    "wide JSON": lines(separators=("\t,", " :\t")),
    "several data lines": lines(separators=(",\n", ":")),
    "other fields": lines(": c", "event: message", "id: 1", "retry: 5"),
    "comments between": lines(": ping\n"),
    "empty lines between": lines("\n\n"),
}


@pytest.mark.parametrize("framing", [*FRAMINGS, "byte order mark"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_b15_any_framing_cut_anywhere_gives_the_same_text_usage_and_model(framing: str, size: int) -> None:
    texts = ["Grüße ", "\n\n", '": ', "data: x", '"model":"m"', "[DONE]", "\u2028", " end"]
    events = [*whole(*texts)[:-1], usage(3, 7)]
    values = [*(json.loads(event.removeprefix(b"data: ")) for event in events), "[DONE]"]
    stream = b"".join(map(FRAMINGS.get(framing, lines()), values))
    if framing == "byte order mark":
        stream = b"\xef\xbb\xbf" + stream
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    async with stage(streaming(*pieces)) as on:
        for asked in (False, True):
            options = {"stream_options": {"include_usage": True}} if asked else {}
            answer = await on.stream(**options)
            answer = answer._replace(body=plain(answer.body))
            assert_whole(answer, texts)
            shown = [found["usage"]["completion_tokens"] for found in answer.chunks if found.get("usage")]
            assert shown == ([7] if asked else [])
        assert {line["output_tokens"] for line in on.served.calls()} == {7}


def plain(stream: bytes) -> bytes:
    """The same events, each as one `data: ` line; what is not data is left out."""
    assert b"\r" not in stream
    out = []
    for event in stream.split(b"\n\n"):
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            out.append(b"data: " + b" ".join(lines) + b"\n\n")
    return b"".join(out)


async def test_usage_is_always_asked_for_upstream_and_other_stream_options_stay() -> None:
    async with stage(GOOD) as on:
        await on.stream()
        await on.stream(stream_options={"include_usage": False, "include_obfuscation": False})
        await on.stream(stream_options={"include_usage": True, "x": 2**53 + 1})
        await on.stream(stream_options=None)
        options = [json.loads(body)["stream_options"] for body in on.clouds[0].bodies()]
        assert options == [
            {"include_usage": True},
            {"include_usage": True, "include_obfuscation": False},
            {"include_usage": True, "x": 2**53 + 1},
            {"include_usage": True},
        ]
    async with stage(GOOD, account={"stream_usage": False}) as on:
        await on.stream()
        assert b"stream_options" not in on.clouds[0].bodies()[0]


async def test_usage_beside_content_is_hidden_without_touching_the_rest() -> None:
    tokens = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    last = delta("end", "stop", usage=tokens, big=2**53 + 1, x_groq={"id": "é"})
    async with stage(streaming(ROLE, delta("a", usage=None), last, DONE)) as on:
        hidden = await on.stream()
        assert_whole(hidden, ["a", "end"])
        assert [found.get("usage") for found in hidden.chunks] == [None, None, None]
        assert hidden.chunks[2]["big"] == 2**53 + 1
        assert hidden.chunks[2]["x_groq"] == {"id": "é"}
        shown = await on.stream(stream_options={"include_usage": True})
        assert [found.get("usage") for found in shown.chunks] == [None, None, None, tokens]
        assert shown.chunks[3]["choices"] == []
        assert [line["output_tokens"] for line in on.served.calls()] == [9, 9]


async def test_usage_that_grows_from_chunk_to_chunk_counts_once_and_is_shown_once() -> None:
    def growing(n: int) -> bytes:
        tokens = {"prompt_tokens": 3, "completion_tokens": n, "total_tokens": 3 + n}
        return delta(f"{n} ", usage=tokens)

    chunks = [ROLE, *map(growing, range(1, 6)), delta(None, "stop")]
    for last in ([], [usage(3, 5)]):
        async with stage(streaming(*chunks, *last, DONE)) as on:
            answer = await on.stream()
            assert_whole(answer, [f"{n} " for n in range(1, 6)])
            assert not [found for found in answer.chunks if found.get("usage")]
            shown = await on.stream(stream_options={"include_usage": True})
            assert_whole(shown, [f"{n} " for n in range(1, 6)])
            totals = [found["usage"]["completion_tokens"] for found in shown.chunks if found.get("usage")]
            assert (totals, shown.chunks[-1]["choices"]) == ([5], [])
            each = await on.stream(stream_options={"include_usage": True, "continuous_usage_stats": True})
            totals = [found["usage"]["completion_tokens"] for found in each.chunks if found.get("usage")]
            assert totals == [1, 2, 3, 4, 5, *[5 for _ in last]]
            assert [line["output_tokens"] for line in on.served.calls()] == [5, 5, 5]


async def test_b25_usage_that_is_told_twice_is_counted_and_shown_once_at_the_end() -> None:
    async with stage(
        streaming(ROLE, delta("a"), usage(3, 1), delta(None, "stop"), usage(3, 2), usage(3, 2), DONE)
    ) as on:
        assert not [found for found in (await on.stream()).chunks if found.get("usage")]
        shown = await on.stream(stream_options={"include_usage": True})
        assert_whole(shown, ["a"])
        assert [found.get("usage") for found in shown.chunks[:-1]] == [None, None, None]
        assert (shown.chunks[-1]["usage"]["completion_tokens"], shown.chunks[-1]["choices"]) == (2, [])
        assert [line["output_tokens"] for line in on.served.calls()] == [2, 2]


async def test_b25_pieces_of_calls_that_come_twice_or_out_of_order_arrive_as_they_came() -> None:
    def piece(index: int, **function: str) -> bytes:
        made = {"tool_calls": [{"index": index, "function": function}]}
        return delta(None, choices=[{"index": 0, "delta": made, "finish_reason": None}])

    sent = [
        piece(1, name="b"),
        piece(0, name="a"),
        piece(1, arguments="{"),
        piece(1, arguments="{"),
        piece(0, arguments=""),
    ]
    async with stage(streaming(ROLE, *sent, delta(None, "tool_calls"), DONE)) as on:
        answer = await on.stream()
        got = [found["choices"][0]["delta"] for found in answer.chunks if "tool_calls" in found["choices"][0]["delta"]]
        assert got == [json.loads(event[6:])["choices"][0]["delta"] for event in sent]
        assert answer.done


MODELS: dict[str, Any] = {
    "first": lambda text: {"model": "m", "choices": choices(text)},
    "last": lambda text: {"choices": choices(text), "model": "m"},
    "in some": lambda text: {"model": "m", "choices": choices(text)} if text == "a" else {"choices": choices(text)},
    "changing": lambda text: {"model": f"m-{text}", "choices": choices(text)},
    "nested too": lambda text: {"model": "m", "x": {"model": "m"}, "choices": choices(text)},
    "nested before": lambda text: {"x": {"model": "m"}, "model": "m", "choices": choices(text)},
    "escaped": lambda text: {"model": 'a"b\\', "choices": choices(text)},
    "the route's own": lambda text: {"model": "r", "choices": choices(text)},
}


def choices(text: str) -> list[Any]:
    return [{"index": 0, "delta": {"content": text}, "finish_reason": "stop" if text == "z" else None}]


@pytest.mark.parametrize("place", MODELS)
async def test_the_model_of_every_chunk_is_the_name_that_was_asked_and_nothing_else_changes(place: str) -> None:
    sent = [MODELS[place](text) for text in ("a", "b", "c", "z")]
    events = [b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in sent]
    async with stage(streaming(*events, DONE), streaming(b"".join(events), DONE)) as on:
        answer = await on.stream()
        expected = [{**event, "model": "r"} if "model" in event else event for event in sent]
        assert answer.chunks == expected
        assert [list(found) for found in answer.chunks] == [list(event) for event in sent]


TRICKY = [
    "a",
    "b",
    "\\",
    "c\\",
    '"',
    '\\"',
    "\n",
    '","finish_reason":"stop',
    "",
    "é😀\u2028",
    "d",
    '"},"x":{"y',
    "e",
    "[DONE]",
    "data: ",
]


@pytest.mark.parametrize("fields", [{}, {"created": None}, {"usage": None, "x": []}], ids=str)
@pytest.mark.parametrize("ascii_", [True, False])
async def test_no_text_can_be_taken_for_the_frame_around_it(fields: dict[str, Any], ascii_: bool) -> None:
    def event(n: int, text: str | None, finish: str | None = None) -> bytes:
        delta_ = {} if text is None else {"content": text}
        choices = [{"index": 0, "delta": delta_, "finish_reason": finish}]
        changing = {name: n if value is None and name == "created" else value for name, value in fields.items()}
        body = {"id": "1", "model": "m", "choices": choices, **changing}
        return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=ascii_).encode() + b"\n\n"

    sent = [event(n, text) for n, text in enumerate([*TRICKY, *TRICKY])] + [event(99, None, "stop")]
    async with stage(streaming(*sent, DONE)) as on:
        answer = await on.stream()
        assert answer.body == b"".join(sent).replace(b'"model":"m"', b'"model":"r"') + DONE
        assert_whole(answer, [text for text in [*TRICKY, *TRICKY] if text])


async def test_events_pass_as_they_come() -> None:
    steps = [asyncio.Event() for _ in TEXTS]

    async def stepping(connection: Connection) -> None:
        await connection.request()
        await connection.send(STREAM_HEAD)
        for step, text in zip(steps, TEXTS, strict=True):
            await connection.send(chunk(delta(text)))
            await step.wait()
        await connection.send(chunk(delta(None, "stop") + DONE) + chunk(b""))

    async with stage(stepping) as on, caller(on.served) as client:
        await client.send(on.request(chat(stream=True)))
        assert await client.head() == 200
        for step, text in zip(steps, TEXTS, strict=True):
            async with asyncio.timeout(PATIENCE_S):
                assert json.dumps(text).encode() in await client.piece()
            step.set()
        while await client.piece():
            pass


async def test_a_piece_never_ends_within_an_event() -> None:
    stream = b"".join(whole(*TEXTS))
    pieces = [stream[at : at + 11] for at in range(0, len(stream), 11)]
    async with stage(streaming(*pieces)) as on, caller(on.served) as client:
        await client.send(on.request(chat(stream=True)))
        await client.head()
        while piece := await client.piece():
            assert piece.startswith(b"data: ")
            assert piece.endswith(b"\n\n")


async def test_an_event_of_megabytes_passes_whole() -> None:
    text = "0123456789" * 400_000
    event = delta(text)
    pieces = [event[at : at + 50_000] for at in range(0, len(event), 50_000)]
    async with stage(streaming(ROLE, *pieces, delta(None, "stop"), DONE)) as on:
        began = time.process_time()
        assert_whole(await on.stream(), [text])
        assert time.process_time() - began < 3


async def test_an_event_that_never_ends_is_a_failure_and_not_a_full_memory() -> None:
    async def endless(connection: Connection) -> None:
        await connection.request()
        await connection.send(STREAM_HEAD + chunk(b"data: "))
        while not connection.reader.at_eof():
            await connection.send(chunk(b"x" * 1_000_000))

    async with stage(endless, GOOD) as on:
        assert_whole(await on.stream(), WORDS)
        assert on.outcomes() == ["too_large", "ok"]


async def test_tool_calls_arrive_as_they_were_cut() -> None:
    calls = [
        [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a": "mo'}}],
        [{"index": 0, "function": {"arguments": 'del": "m"}'}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}}],
    ]
    sent = [{"index": 0, "delta": {"tool_calls": found}, "finish_reason": None} for found in calls]
    events = [delta(None, choices=[choice]) for choice in sent]
    async with stage(streaming(ROLE, *events, delta(None, "tool_calls"), DONE)) as on:
        answer = await on.stream(tools=[{"type": "function", "function": {"name": "f"}}])
        assert [found["choices"][0] for found in answer.chunks[1:-1]] == sent
        assert (answer.finishes, answer.done) == (["tool_calls"], True)


async def test_a_completion_streams_as_well() -> None:
    def text(piece: str, finish: str | None = None) -> bytes:
        return delta(None, choices=[{"index": 0, "text": piece, "finish_reason": finish, "logprobs": None}])

    body = json.dumps({"model": "r", "prompt": "x", "stream": True}).encode()
    async with stage(streaming(text("a"), text("b", "stop"), DONE), streaming(text("a"), end="close")) as on:
        answer = await on.ask(body, "/v1/completions")
        assert "".join(found["choices"][0]["text"] for found in answer.chunks) == "ab"
        assert answer.done
        assert on.clouds[0].requests[0].startswith(b"POST /v1/completions HTTP/1.1")
    async with stage(streaming(text("a"), end="close")) as on:
        answer = await on.ask(body, "/v1/completions")
        assert answer.fault is not None
        assert (answer.done, answer.fault["code"]) == (False, "stream_incomplete")


async def test_a_slow_reader_holds_back_the_cloud_and_the_buffer_stays_small() -> None:
    event = delta("x" * 60_000)
    total, pushed = 96_000_000, 0

    async def pushing(connection: Connection) -> None:
        nonlocal pushed
        connection.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        await connection.request()
        await connection.send(STREAM_HEAD)
        while pushed < total:
            await connection.send(chunk(event))
            pushed += len(event)
        await connection.send(chunk(delta(None, "stop") + DONE) + chunk(b""))

    async with stage(pushing) as on, caller(on.served, limit_bytes=65_536) as client:
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        await client.send(on.request(chat(stream=True)))
        await client.head()
        before = -1
        while pushed != before:  # until nothing moves any more
            before = pushed
            await asyncio.sleep(0.25)
        assert pushed < 16_000_000  # nearly all of it in the kernel's socket buffers, which grow to about 4 and 6 MB
        total = pushed + 10_000_000  # the rest of it comes whole
        received = 0
        async with asyncio.timeout(60):
            while piece := await client.piece():
                received += piece.count(b"data: {")
        assert received == -(-total // len(event)) + 1


async def test_a_reader_that_stopped_reading_does_not_keep_the_others_waiting() -> None:
    async def endless(connection: Connection) -> None:
        while request := await connection.request():
            if b'"user":"stuck"' not in request:
                await connection.send(answer_bytes())
                continue
            await connection.send(STREAM_HEAD)
            while not connection.reader.at_eof():
                await connection.send(chunk(delta("x" * 60_000)))

    async with stage(endless) as on, caller(on.served, limit_bytes=65536) as client:
        await client.send(on.request(chat(stream=True, user="stuck")))
        await client.head()
        for _ in range(20):
            answer = await on.ask()
            assert (answer.status, answer.seconds < 2) == (200, True)
        client.reset()
        await on.served.at_rest()


@pytest.mark.parametrize("end", ["fin", "rst"])
async def test_b7_a_stream_cut_at_any_byte_is_whole_or_says_that_it_is_not(end: str) -> None:
    wire = STREAM_HEAD + b"".join(map(chunk, [*whole(*TEXTS[:3])[:-1], usage(3, 3), DONE, b""]))
    places = iter(range(0, len(wire), 5))

    async def cutting(connection: Connection) -> None:
        await connection.request()
        await connection.send(wire[: next(places)])
        if end == "rst":
            connection.reset()

    budget = {"retry_budget": 1.0, "retry_floor_per_s": 1000.0}
    seen = set()
    async with stage(cutting, streaming(*whole("other")), attempts=budget) as on:
        for _ in range(0, len(wire), 5):
            answer = await on.stream(stream_options={"include_usage": True})
            assert answer.status == 200
            if answer.headers["x-arriero-deployment"] == "b":
                assert (answer.deltas, answer.done) == (["other"], True)
                seen.add("before")
            elif answer.fault is None:
                assert (answer.deltas, answer.finishes, answer.done) == (TEXTS[:3], ["stop"], True)
                seen.add("after")
            else:
                assert answer.deltas == TEXTS[: len(answer.deltas)]
                assert (answer.finishes, answer.done, answer.fault["code"]) == ([], False, "stream_incomplete")
                seen.add("within")
    assert seen == {"before", "within", "after"}


async def test_b5_a_plain_answer_cut_at_any_byte_is_never_delivered() -> None:
    wire = answer_bytes()
    places = iter(range(0, len(wire), 5))

    async def cutting(connection: Connection) -> None:
        await connection.request()
        await connection.send(wire[: next(places)])

    budget = {"retry_budget": 1.0, "retry_floor_per_s": 1000.0}
    async with stage(cutting, answering(answer_bytes("other")), attempts=budget) as on:
        for _ in range(0, len(wire), 5):
            answer = await on.ask()
            assert (answer.status, answer.headers["x-arriero-deployment"]) == (200, "b")
