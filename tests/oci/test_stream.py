"""Streams of Oracle as streams of OpenAI: framing, texts, calls, ends, usage, and faults in the middle."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from gateway import sse
from gateway.outcome import judge
from providers._oci_answer import Asked
from providers._oci_stream import Translator
from tests.oci.calls import patient

ASKED = Asked("chatcmpl-1", 1_700_000_000, "m")
USAGE = {"usage": {"completionTokens": 8, "promptTokens": 41, "totalTokens": 49}, "pad": "aa"}
END = {"message": {"role": "ASSISTANT", "content": ""}, "finishReason": "stop", "pad": "aaaa"}


def text(value: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "TEXT", "text": value}]
    return {"index": 0, "message": {"role": "ASSISTANT", "content": content}, "pad": "a", **fields}


def fragment(arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    call = {"type": "FUNCTION", **fields, **({} if arguments is None else {"arguments": arguments})}
    return {"message": {"role": "ASSISTANT", "toolCalls": [call]}, "pad": "a"}


def wire(*events: Any, gap: bytes = b"\n\n", done: bool = True) -> bytes:
    frames = [b"data: " + (e if isinstance(e, bytes) else json.dumps(e, ensure_ascii=False).encode()) for e in events]
    return b"".join(frame + gap for frame in [*frames, *([b"data: [DONE]"] if done else [])])


class Heard:
    """What a client of OpenAI's hears of a translated stream."""

    def __init__(self, raw: bytes, asked: Asked = ASKED, cuts: list[int] | None = None) -> None:
        self.degraded: dict[str, Any] = {}
        self.translator = Translator(asked, self.degraded)
        pieces = [raw[a:b] for a, b in zip([0, *(cuts or [])], [*(cuts or []), len(raw)], strict=True)]
        self.raw = b"".join([self.translator.feed(piece) for piece in pieces]) + self.translator.end()
        self.fault = self.translator.fault
        self.events = [sse.payload(event) for event in sse.events(self.raw)]
        self.done = self.events[-1:] == [b"[DONE]"]
        self.chunks = [json.loads(event) for event in self.events if event != b"[DONE]"]
        for chunk in self.chunks:
            ChatCompletionChunk.model_validate(chunk)

    def choices(self, index: int = 0) -> list[dict[str, Any]]:
        return [c for chunk in self.chunks for c in chunk["choices"] if c["index"] == index]

    def text(self, index: int = 0) -> str:
        return "".join(c["delta"].get("content") or "" for c in self.choices(index))

    def finish(self, index: int = 0) -> list[str]:
        return [c["finish_reason"] for c in self.choices(index) if c["finish_reason"]]

    def calls(self, index: int = 0) -> list[tuple[str, str, str]]:
        """(id, name, arguments) of each call, put together as OpenAI's SDK does: by index."""
        found: dict[int, list[str]] = {}
        for c in self.choices(index):
            for call in c["delta"].get("tool_calls", ()):
                known = found.setdefault(call["index"], ["", "", ""])
                assert ("id" in call) == (known[0] == "")
                known[0] += call.get("id", "")
                known[1] += call["function"].get("name", "")
                known[2] += call["function"].get("arguments", "")
        assert list(found) == list(range(len(found)))
        return [(a, b, c) for a, b, c in found.values()]

    @property
    def usage(self) -> Any:
        return [chunk["usage"] for chunk in self.chunks if chunk.get("usage")]


HELLO = wire(text("Hello"), text(" wörld 🦙"), END, USAGE)


# ---------------------------------------------------------------------- a text
def test_the_sequence_seen_of_llama() -> None:
    heard = Heard(HELLO)
    assert heard.text() == "Hello wörld 🦙"
    assert heard.choices()[0]["delta"] == {"role": "assistant", "content": "Hello"}
    assert [c["delta"].get("role") for c in heard.choices()[1:]] == [None, None]
    assert heard.finish() == ["stop"]
    assert heard.usage == [{"prompt_tokens": 41, "completion_tokens": 8, "total_tokens": 49}]
    assert heard.chunks[-1]["choices"] == []
    assert heard.done
    assert "pad" not in heard.raw.decode()
    assert {(c["id"], c["object"], c["created"], c["model"]) for c in heard.chunks} == {
        ("chatcmpl-1", "chat.completion.chunk", 1_700_000_000, "m")
    }


@pytest.mark.parametrize("gap", [b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"\r", b"\r\r", b"\n\n\n\n"])
def test_events_may_stand_apart_by_any_line_end_even_a_single_one(gap: bytes) -> None:
    heard = Heard(wire(text("a"), text("b"), END, USAGE, gap=gap))
    assert (heard.text(), heard.finish(), heard.done, len(heard.usage)) == ("ab", ["stop"], True, 1)


def test_the_end_mark_may_be_missing_and_so_may_the_last_line_end() -> None:
    for raw in (wire(text("a"), END, USAGE, done=False), wire(text("a"), END, USAGE, done=False).rstrip(b"\n")):
        heard = Heard(raw)
        assert (heard.done, len(heard.usage), heard.fault) == (True, 1, None)


def test_without_usage_there_is_none_and_without_a_reason_no_end_is_made_up() -> None:
    assert Heard(wire(text("a"), END)).usage == []
    heard = Heard(wire(text("a"), done=False))
    assert (heard.done, heard.finish(), heard.fault) == (False, [], None)


def test_text_may_stand_in_the_finish_event() -> None:
    heard = Heard(wire(text("Hel"), text("lo", finishReason="length"), USAGE))
    assert (heard.text(), heard.finish()) == ("Hello", ["length"])


def test_padding_comments_other_fields_and_a_byte_order_mark_say_nothing() -> None:
    raw = b"\xef\xbb\xbf: hi\n\nevent: message\nid: 1\nretry: 5\n" + wire({"pad": "aaa"}, text("a"), b"", END)
    heard = Heard(raw)
    assert (heard.text(), heard.fault) == ("a", None)


def test_an_event_over_two_data_lines_is_put_together() -> None:
    raw = b'data: {"index":0,\ndata: "message":{"content":[{"type":"TEXT","text":"a"}]}}\n\n' + wire(END)
    assert Heard(raw).text() == "a"


def test_an_empty_answer_is_an_answer() -> None:
    heard = Heard(wire(END, USAGE))
    assert (heard.text(), heard.finish(), heard.done) == ("", ["stop"], True)
    assert heard.choices()[0]["delta"] == {"role": "assistant", "content": ""}


def test_bytes_of_texts_are_not_changed() -> None:
    raw = b'data: {"message":{"content":[{"type":"TEXT","text":"\\u00e9\\/ \xc3\xb1"}]}}\n\n'
    assert b'"content":"\\u00e9\\/ \xc3\xb1"' in Heard(raw).raw


@patient
@given(st.lists(st.integers(0, len(HELLO)), max_size=12).map(sorted))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int]) -> None:
    assert Heard(HELLO, cuts=cuts).raw == Heard(HELLO).raw


def test_every_single_cut_of_crlf_and_bom() -> None:
    raw = b"\xef\xbb\xbf" + wire(text("é🦙"), END, USAGE, gap=b"\r\n\r\n")
    for at in range(len(raw) + 1):
        assert Heard(raw, cuts=[at]).raw == Heard(raw).raw


# ---------------------------------------------------------------------- choices and reasons
def test_choices_are_told_apart_by_index_and_an_end_without_one_is_the_first_open_ones() -> None:
    raw = wire(
        text("a"), text("x", index=1), text("b"), text("y", index=1), END, {**END, "finishReason": "length"}, USAGE
    )
    heard = Heard(raw, ASKED._replace(choices=2))
    assert (heard.text(0), heard.text(1)) == ("ab", "xy")
    assert (heard.finish(0), heard.finish(1)) == (["stop"], ["length"])


def test_an_end_is_made_only_when_every_choice_ended() -> None:
    raw = wire(text("a"), text("x", index=1), {**END, "index": 0}, done=False)
    assert not Heard(raw, ASKED._replace(choices=2)).done


def test_a_reason_that_is_unknown_is_told() -> None:
    heard = Heard(wire(text("a"), {**END, "finishReason": "WEIRD"}))
    assert heard.finish() == ["stop"]
    assert heard.choices()[-1]["native_finish_reason"] == "WEIRD"
    assert heard.degraded == {"finish_reason": "emulated"}


def test_a_second_end_of_a_choice_says_nothing_new() -> None:
    assert Heard(wire(text("a"), {**END, "index": 0}, {**END, "index": 0})).finish() == ["stop"]


def test_logprobs_come_with_their_text() -> None:
    given_ = {"tokens": ["a"], "tokenLogprobs": [-0.5], "topLogprobs": [{"a": "-0.5", "b": "-1.5"}]}
    heard = Heard(wire(text("a", logprobs=given_), END), ASKED._replace(top_logprobs=2))
    (found,) = [c["logprobs"]["content"] for c in heard.choices() if c["logprobs"]]
    assert [(t["token"], t["logprob"], len(t["top_logprobs"])) for t in found] == [("a", -0.5, 2)]


# ---------------------------------------------------------------------- tool calls
def test_a_new_id_is_a_new_call_and_what_has_none_goes_on_with_the_last() -> None:
    heard = Heard(
        wire(
            fragment("", id="c1", name="f"),
            fragment('{"city"'),
            fragment(': "Paris"}'),
            fragment("", id="c2", name="g"),
            fragment("{}"),
            {**fragment(""), "finishReason": "tool_calls"},
            USAGE,
        )
    )
    assert heard.calls() == [("c1", "f", '{"city": "Paris"}'), ("c2", "g", "{}")]
    assert heard.finish() == ["tool_calls"]
    assert heard.choices()[0]["delta"]["role"] == "assistant"
    assert heard.choices()[0]["delta"]["content"] is None


def test_whole_calls_in_one_event_each_or_all_in_one() -> None:
    apart = wire(fragment("{}", id="a", name="f"), fragment("[]", id="b", name="g"), {"finishReason": "tool_calls"})
    assert Heard(apart).calls() == [("a", "f", "{}"), ("b", "g", "[]")]
    both = {
        "message": {
            "toolCalls": [{"id": "a", "name": "f", "arguments": "{}"}, {"id": "b", "name": "g", "arguments": "[]"}]
        }
    }
    assert Heard(wire(both, {"finishReason": "tool_calls"})).calls() == [("a", "f", "{}"), ("b", "g", "[]")]


def test_an_id_that_comes_again_is_the_same_call() -> None:
    raw = wire(
        fragment("", id="a", name="f"), fragment("", id="b", name="g"), fragment("1", id="a"), fragment("2", id="b")
    )
    assert Heard(raw).calls() == [("a", "f", "1"), ("b", "g", "2")]


def test_calls_without_any_id_are_told_apart_by_a_name_after_arguments() -> None:
    raw = wire(fragment("", name="f"), fragment("1"), fragment("2", name="g"), {"finishReason": "tool_calls"})
    (first, second) = Heard(raw).calls()
    assert (first[1:], second[1:]) == (("f", "1"), ("g", "2"))
    assert first[0] != second[0]
    assert Heard(raw).calls() == [first, second]


def test_text_before_calls_and_calls_of_two_choices_do_not_mix() -> None:
    one = {**fragment("1", id="a", name="f"), "index": 0}
    two = {**fragment("2", id="a", name="g"), "index": 1}
    heard = Heard(wire(text("Let me look."), one, two), ASKED._replace(choices=2))
    assert (heard.text(), heard.calls(0), heard.calls(1)) == ("Let me look.", [("a", "f", "1")], [("a", "g", "2")])


@patient
@given(
    st.lists(st.tuples(st.text('abc{}":é🦙', max_size=12), st.integers(1, 4)), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
def test_arguments_cut_anywhere_come_together_again(calls: list[tuple[str, int]], seed: int) -> None:
    dice, events = random.Random(seed), []
    for number, (arguments, pieces) in enumerate(calls):
        events.append(fragment("", id=f"c{number}", name=f"f{number}"))
        cuts = sorted(dice.randint(0, len(arguments)) for _ in range(pieces))
        events += [fragment(arguments[a:b]) for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    heard = Heard(wire(*events, {"finishReason": "tool_calls"}, gap=b"\n"))
    assert heard.calls() == [(f"c{n}", f"f{n}", arguments) for n, (arguments, _) in enumerate(calls)]


# ---------------------------------------------------------------------- characters
def test_characters_of_texts_and_arguments_are_counted_once() -> None:
    raw = wire(
        text("né"),
        text("\n"),
        fragment("", id="a", name="f"),
        fragment('{"é":1}'),
        {"finishReason": "tool_calls"},
        USAGE,
    )
    (usage,) = Heard(raw, ASKED._replace(prompt_characters=9)).usage
    assert (usage["prompt_characters"], usage["completion_characters"]) == (9, 2 + 1 + 7)


# ---------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        ({"code": "429", "message": "Too many"}, "rate_limited"),
        ({"code": "TooManyRequests", "message": "x"}, "rate_limited"),
        ({"code": "InternalServerError", "message": "x"}, "server_error"),
        ({"code": 503, "message": "x"}, "overloaded"),
        ({"code": "NotAuthenticated", "message": "x"}, "auth"),
        ({"error": {"code": "429", "message": "x"}}, "rate_limited"),
        ({"error": "overloaded"}, "server_error"),
        ({"message": "something broke"}, "server_error"),
        ({"finishReason": "ERROR"}, "server_error"),
    ],
)
def test_an_error_in_the_stream_is_a_fault_after_what_came_before(event: dict[str, Any], outcome: str) -> None:
    heard = Heard(wire(text("a"), event, text("b"), END))
    assert heard.fault is not None
    assert (heard.text(), heard.done, judge(heard.fault).name) == ("a", False, outcome)


@pytest.mark.parametrize(
    "event",
    [b"<<<junk>>>", b"[1,2]", b'{"index":"zero"}', b'{"message":{"content":7}}', b'{"message":\xff}', b'{"message":'],
)
def test_an_event_that_is_none_is_a_fault(event: bytes) -> None:
    heard = Heard(wire(text("a"), event, END))
    assert heard.fault is not None
    assert (heard.fault.kind, heard.text(), heard.done) == ("shape", "a", False)


def test_a_line_without_end_is_a_fault_before_it_fills_the_memory() -> None:
    translator = Translator(ASKED, {})
    for _ in range(18):
        translator.feed(b"data: " + b"x" * 1024 * 1024 if not translator.said else b"x" * 1024 * 1024)
    assert translator.fault is not None
    assert translator.fault.kind == "too_large"


def test_a_million_tiny_lines_are_read_in_time() -> None:
    heard = Heard(b": x\n" * 1_000_000 + HELLO)
    assert heard.text() == "Hello wörld 🦙"


@patient
@given(
    st.lists(
        st.one_of(st.binary(max_size=30), st.sampled_from([b"data: ", b"\n", b"\r", b'{"message":', HELLO])), max_size=8
    )
)
def test_whatever_comes_is_events_or_a_fault(pieces: list[bytes]) -> None:
    translator = Translator(ASKED, {})
    out = b"".join([translator.feed(piece) for piece in pieces]) + translator.end()
    for event in sse.events(out):
        assert event == sse.DONE or json.loads(sse.payload(event))
