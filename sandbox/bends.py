"""What the faults that bend an answer's form do: the whole answer comes, but not as it should.

Rule 1. Where the form is odd but allowed (crlf, slow_bytes, most of FRAMES) a good client reads the same text.
"""

import gzip
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec

from sandbox.behaviour import Fault
from sandbox.playback import Playback
from sandbox.types import Event, Json

Bend = Callable[[Playback, Fault], Awaitable[None]]
_encode = msgspec.json.encode


# ---------------------------------------------------------------------- changes of one JSON value
def _no_choices(value: Json) -> Json:
    return {**value, "choices": []} if "choices" in value else value


def _no_content(value: Json) -> Json:
    for choice in value.get("choices", ()):
        for word in ("message", "delta"):
            if isinstance(choice.get(word), dict) and "content" in choice[word]:
                choice[word] = {**choice[word], "content": ""}
                choice[word].pop("tool_calls", None)
        if "text" in choice:
            choice["text"] = ""
    return value


def no_finish(value: Json) -> Json:
    for choice in value.get("choices", ()):
        choice["finish_reason"] = None
    return value


def json_edit(change: Callable[[Json], Json]) -> Callable[[bytes], bytes]:
    """An edit of event frames that hold one JSON value; b"" drops the event."""

    def edit(frame: bytes) -> bytes:
        if not frame.startswith(b"data: {"):
            return frame
        value = change(msgspec.json.decode(frame[6:]))
        return b"" if value is None else b"data: " + _encode(value) + b"\n\n"

    return edit


def edited(body: bytes, change: Callable[[Json], Json]) -> bytes:
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body
    return _encode(change(value)) if isinstance(value, dict) else body


async def _bent(play: Playback, change: Callable[[Json], Json]) -> None:
    """The whole answer with every JSON value changed."""
    if play.streams:
        play.edit = json_edit(change)
    else:
        play.reply.body = edited(play.reply.body, lambda value: change(value) or {})
    await play.play()


async def _no_usage(play: Playback, fault: Fault) -> None:
    await _bent(play, _without_usage)


def _without_usage(value: Json) -> Json:
    had = value.pop("usage", None)
    groq = value.get("x_groq")
    if isinstance(groq, dict):
        groq.pop("usage", None)
    return None if had and value.get("choices") == [] else value


async def _usage_twice(play: Playback, fault: Fault) -> None:
    if play.streams:
        plain = play.to_chunk
        play.to_chunk = lambda frame: plain(frame) * (2 if b'"usage":{' in frame else 1)
    await play.play()


async def _drift(play: Playback, fault: Fault) -> None:
    await _bent(play, _DRIFTS[fault.variant or "unknown_fields"])


def _unknown_fields(value: Json) -> Json:
    new = {"new_number": 2**53 + 1, "new_null": None, "new_nested": {"a": [1, {"b": "ñ"}], "deep": [[[[]]]]}}
    choices = [
        {**choice, "new_choice_field": "x"} if isinstance(choice, dict) else choice
        for choice in value.get("choices", ())
    ]
    return {"new_first": True, **value, **({"choices": choices} if "choices" in value else {}), **new}


def _wrong_types(value: Json) -> Json:
    out = {**value, "created": "yesterday", "id": 17}
    if out.get("usage"):
        out["usage"] = {name: str(number) for name, number in out["usage"].items()}
    if out.get("choices"):
        out["choices"] = {"0": out["choices"][0]}
    return out


def _missing_fields(value: Json) -> Json:
    return {k: v for k, v in value.items() if k in ("choices", "usage")}


async def _framed(play: Playback, edit: Callable[[bytes], bytes]) -> None:
    if play.streams:
        play.edit = edit
    await play.play()


async def _crlf(play: Playback, fault: Fault) -> None:
    await _framed(play, lambda frame: frame.replace(b"\n", b"\r\n"))


async def _no_space(play: Playback, fault: Fault) -> None:
    await _framed(play, lambda frame: frame.replace(b"data: ", b"data:", 1))


async def _slow_bytes(play: Playback, fault: Fault) -> None:
    play.byte_every_s = fault.every_s or 0.0
    await play.play()


async def _no_done(play: Playback, fault: Fault) -> None:
    play.dropped = frozenset({"done"})
    await play.play()


async def _gzip(play: Playback, fault: Fault) -> None:
    body = play.reply.body
    if play.streams:
        assert play.reply.events is not None
        body = b"".join(event.frame for event in play.reply.events)
        play.reply.events = None
    packed = gzip.compress(b" " * (fault.size_bytes or 100_000_000) if fault.variant == "bomb" else body, mtime=0)
    packed = packed[: len(packed) // 2] if fault.variant == "truncated" else packed
    play.reply.headers = [*play.reply.headers, ("content-encoding", "gzip")]
    await play.send_head(length=len(packed), body=packed)


async def _bad_frame(play: Playback, fault: Fault) -> None:
    variant = fault.variant or "junk"
    if not play.streams:
        play.reply.body = _BROKEN_BODY.get(variant, _junk_body)(play.reply.body)
        await play.play()
        return
    assert play.reply.events is not None
    if variant == "no_last_blank":
        play.reply.events = _last_line_cut(play.reply.events)
    else:
        count = iter(range(1 << 60))
        bend = _FRAMES.get(variant, _FRAMES["junk"])
        play.edit = lambda frame: bend(frame, next(count))
    await play.play()


def _last_line_cut(events: Iterator[Event]) -> Iterator[Event]:
    """The same events, but the last one is not ended by a blank line."""
    held: Event | None = None
    for event in events:
        if held is not None:
            yield held
        held = event
    if held is not None:
        yield held._replace(frame=held.frame.rstrip(b"\n"))


def _multi_line(frame: bytes) -> bytes:
    """One JSON value over two data lines; joined by a newline they are the same value."""
    at = frame.find(b",")
    return frame if at < 0 else frame[: at + 1] + b"\ndata: " + frame[at + 1 :]


def _mixed(frame: bytes, number: int) -> bytes:
    ends = (b"\r\n", b"\n", b"\r")
    return frame[:-2] + ends[number % 3] * 2


_text = re.compile(rb'"(?:content|text)":"').search


def _spoiled(frame: bytes, number: int, bad: bytes) -> bytes:
    """The third event's text with bytes in it that should not be there."""
    return _with(frame, bad) if number == 2 else frame


def _with(data: bytes, bad: bytes) -> bytes:
    """The first text with these bytes before it."""
    found = _text(data)
    return data[: found.end()] + bad + data[found.end() :] if found else data


def _junk_body(body: bytes) -> bytes:
    return b"<<<junk>>>" + body


_BROKEN_BODY: Mapping[str, Callable[[bytes], bytes]] = {
    "bom": lambda body: b"\xef\xbb\xbf" + body,
    "bad_utf8": lambda body: _with(body, b"\xff\xfe"),
    "lone_surrogate": lambda body: _with(body, b"\\ud800"),
}
_FRAMES: Mapping[str, Callable[[bytes, int], bytes]] = {
    "cr": lambda frame, number: frame.replace(b"\n", b"\r"),
    "mixed": _mixed,
    "multi_line": lambda frame, number: _multi_line(frame),
    "bom": lambda frame, number: b"\xef\xbb\xbf" + frame if number == 0 else frame,
    "fields": lambda frame, number: b"event: message\nid: %d\nretry: 3000\n" % number + frame,
    "comments": lambda frame, number: b": keep-alive\n\n" + frame,
    "no_colon": lambda frame, number: frame.replace(b"data: ", b"data ", 1) if number == 2 else frame,
    "junk": lambda frame, number: b"<<<junk>>>\n\n" + frame if number == 2 else frame,
    "bad_utf8": lambda frame, number: _spoiled(frame, number, b"\xff\xfe"),
    "lone_surrogate": lambda frame, number: _spoiled(frame, number, b"\\ud800"),
}
EMPTIED: Mapping[str, Callable[[Json], Json]] = {"choices": _no_choices, "content": _no_content}
_DRIFTS: Mapping[str, Callable[[Json], Json]] = {
    "unknown_fields": _unknown_fields,
    "wrong_types": _wrong_types,
    "missing_fields": _missing_fields,
}
BENDS: Mapping[str, Bend] = {
    "no_usage": _no_usage,
    "usage_twice": _usage_twice,
    "drift": _drift,
    "crlf": _crlf,
    "no_space": _no_space,
    "slow_bytes": _slow_bytes,
    "no_done": _no_done,
    "bad_frame": _bad_frame,
    "gzip": _gzip,
}
