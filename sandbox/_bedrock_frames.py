"""Amazon's event stream as bytes, and how a stream of the box's Bedrock can be spoilt on purpose.

Source: Smithy 2.0, Amazon Event Stream specification. Judged by botocore's reader in tests/bedrock.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping

import msgspec

from sandbox.behaviour import Fault
from sandbox.types import Event, Json

_encode = msgspec.json.encode
_PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
EXCEPTIONS: Mapping[int, str] = {
    400: "validationException",
    408: "modelTimeoutException",
    424: "modelStreamErrorException",
    429: "throttlingException",
    503: "serviceUnavailableException",
}


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message; every header is a string."""
    said = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack(">II", len(said) + len(payload) + 16, len(said))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + said + payload
    return message + struct.pack(">I", zlib.crc32(message))


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack(">B", len(key)) + key + struct.pack(">BH", 7, len(text)) + text


def event(kind: str, value: Mapping[str, Json], number: int) -> bytes:
    """One event, with the padding that Bedrock puts into each, of a length that tells nothing."""
    payload = _encode({**value, "p": _PADDING[: (number * 7 + 3) % len(_PADDING)]})
    return raw_event(kind, payload)


def raw_event(kind: str, payload: bytes) -> bytes:
    return frame({":event-type": kind, ":content-type": "application/json", ":message-type": "event"}, payload)


def exception_frame(status: int, body: Json) -> bytes:
    """An exception as the service model has them."""
    name = EXCEPTIONS.get(status, "internalServerException")
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, _encode(body))


def error_frame(code: str, message: str) -> bytes:
    """An error that is not in the service model."""
    return frame({":error-code": code, ":error-message": message, ":message-type": "error"}, b"")


Edit = Callable[[Iterator[Event], Fault], Iterator[Event]]


def spoilt(events: Iterator[Event], fault: Fault) -> Iterator[Event] | None:
    """The events with a fault that this wire has in a form of its own; None for the faults that every wire has."""
    if fault.kind == "bad_frame":
        return _after(events, fault, _BAD_FRAMES.get(fault.variant or "junk", _junk))
    edit = _EDITS.get(fault.kind)
    return None if edit is None else edit(events, fault)


def _after(events: Iterator[Event], fault: Fault, change: Callable[[Event], Event]) -> Iterator[Event]:
    """The third event of text is changed; what comes after it is as it was."""
    texts = 0
    for one in events:
        texts += one.kind == "text"
        yield change(one) if texts == 3 and one.kind == "text" else one


def _flipped(one: Event, at: int) -> Event:
    wrong = bytearray(one.frame)
    wrong[at] ^= 0x40
    return one._replace(frame=bytes(wrong))


def _lengths(one: Event) -> Event:
    """Lengths that lie, with a checksum that agrees with them."""
    prelude = struct.pack(">II", 0x7FFFFFFF, 0)
    return one._replace(frame=prelude + struct.pack(">I", zlib.crc32(prelude)) + one.frame[12:])


def _cut(one: Event) -> Event:
    """The second half of a frame is missing."""
    return one._replace(frame=one.frame[: len(one.frame) // 2])


def _junk(one: Event) -> Event:
    return one._replace(frame=b"<<<junk>>>\n\n" + one.frame)


def _bad_utf8(one: Event) -> Event:
    payload = b'{"contentBlockIndex":0,"delta":{"text":"\xff\xfe"}}'
    return one._replace(frame=raw_event("contentBlockDelta", payload))


_BAD_FRAMES: Mapping[str, Callable[[Event], Event]] = {
    "crc": lambda one: _flipped(one, -6),
    "prelude_crc": lambda one: _flipped(one, 9),
    "lengths": _lengths,
    "cut": _cut,
    "bad_utf8": _bad_utf8,
}


def _untouched(events: Iterator[Event], fault: Fault) -> Iterator[Event]:
    """For faults of server-sent events that this wire cannot have."""
    return events


def _without(kinds: frozenset[str]) -> Edit:
    return lambda events, fault: (one for one in events if one.kind not in kinds)


def _twice(events: Iterator[Event], fault: Fault) -> Iterator[Event]:
    for one in events:
        yield one
        if one.kind == "usage":
            yield one


def _broken_off(events: Iterator[Event], fault: Fault) -> Iterator[Event]:
    """An exception first, or after so many tokens; nothing after it."""
    sent = 0
    for one in events:
        if sent >= (fault.after_tokens or 0) and (one.kind == "text" or not fault.after_tokens):
            break
        sent += one.tokens
        yield one
    message = fault.body if fault.body is not None else {"message": "The system encountered an unexpected error."}
    yield Event(exception_frame(fault.status or 500, message))


def _bad_json(events: Iterator[Event], fault: Fault) -> Iterator[Event]:
    sent = 0
    for one in events:
        if one.kind == "text" and sent >= (fault.after_tokens or 0):
            sent = -(1 << 60)
            yield one._replace(frame=raw_event("contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"text":"w00'))
        else:
            sent += one.tokens
            yield one


def _big(events: Iterator[Event], fault: Fault) -> Iterator[Event]:
    for number, one in enumerate(events):
        yield one
        if number == 1:
            padding = b'{"p":"' + b"x" * (fault.size_bytes or 20 * 1024 * 1024) + b'"}'
            yield Event(raw_event("ping", padding))


def _drift(events: Iterator[Event], fault: Fault) -> Iterator[Event]:
    """Events of a later version between the others; or the first text of another type."""
    seen = False
    for number, one in enumerate(events):
        if fault.variant == "wrong_types" and one.kind == "text" and not seen:
            seen = True
            yield one._replace(frame=event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": 7}}, 1))
        else:
            if fault.variant != "wrong_types":
                yield Event(event("laterEvent", {"new": [1, {"b": "ñ"}], "n": 2**53 + 1}, number))
            yield one


_EDITS: Mapping[str, Edit] = {
    "bad_json": _bad_json,
    "big_event": _big,
    "comments_only": _broken_off,
    "crlf": _untouched,
    "drift": _drift,
    "error_event": _broken_off,
    "neither": _without(frozenset({"finish", "usage"})),
    "no_done": _untouched,
    "no_space": _untouched,
    "no_usage": _without(frozenset({"usage"})),
    "usage_twice": _twice,
}
