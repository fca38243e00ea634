"""Faults that have a form of their own on Oracle's wire: what is emptied, left out or of another shape in GENERIC JSON.

Rule 1. Only the form differs from the other clouds; when a fault hits, and the others, are the box's matter."""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from sandbox.behaviour import Fault
from sandbox.types import Event, Json, Reply

Change = Callable[[dict[str, Json]], dict[str, Json] | None]
"""What becomes of one value, an event's or the whole answer's chatResponse; None leaves an event out."""
_encode = msgspec.json.encode


class GenericReply(Reply):
    """An answer in GENERIC form."""


def spoil(fault: Fault, reply: Reply) -> bool:
    """Changes the reply if the fault has a form of its own here; whether it did."""
    if not isinstance(reply, GenericReply):
        return False
    change = _CHANGES.get((fault.kind, fault.variant or _DEFAULTS.get(fault.kind, "")))
    if change is None:
        return False
    if reply.events is None:
        value = msgspec.json.decode(reply.body)
        reply.body = _encode({**value, "chatResponse": change(value["chatResponse"])})
    else:
        last = fault.after_tokens if fault.kind == "neither" else None
        reply.events = _changed(reply.events, change, last)
    return True


def _changed(events: Iterator[Event], change: Change, until_tokens: int | None) -> Iterator[Event]:
    sent = 0
    for event in events:
        if not event.frame.startswith(b"data: {"):
            if change is not _no_end:
                yield event
            continue
        value = change(msgspec.json.decode(event.frame[6:]))
        if value is not None:
            sent += event.tokens
            yield event._replace(frame=b"data: " + _encode(value) + b"\n\n")
        if until_tokens is not None and sent >= until_tokens:
            return


def _no_choices(value: dict[str, Json]) -> dict[str, Json] | None:
    if "choices" in value:
        return {**value, "choices": []}
    return None if "message" in value else value


def _no_content(value: dict[str, Json]) -> dict[str, Json] | None:
    if "choices" in value:
        return {**value, "choices": [{**c, "message": {"role": "ASSISTANT", "content": []}} for c in value["choices"]]}
    return None if "message" in value and "finishReason" not in value else value


def _no_usage(value: dict[str, Json]) -> dict[str, Json] | None:
    rest = {name: inner for name, inner in value.items() if name != "usage"}
    return None if "usage" in value and "choices" not in value else rest


def _no_end(value: dict[str, Json]) -> dict[str, Json] | None:
    if "choices" in value:
        return {**value, "choices": [{**choice, "finishReason": None} for choice in value["choices"]]}
    return None if "usage" in value or "finishReason" in value else value


def _unknown_fields(value: dict[str, Json]) -> dict[str, Json]:
    new = {"newNumber": 2**53 + 1, "newNull": None, "newNested": {"a": [1, {"b": "ñ"}], "deep": [[[[]]]]}}
    choices = [{**choice, "newChoiceField": "x"} for choice in value.get("choices", ())]
    return {"newFirst": True, **value, **({"choices": choices} if choices else {}), **new}


def _wrong_types(value: dict[str, Json]) -> dict[str, Json]:
    out = {**value, "index": "zero"} if "message" in value else {**value}
    if out.get("usage"):
        out["usage"] = {name: str(number) for name, number in out["usage"].items()}
    if out.get("choices"):
        out["choices"] = {"0": out["choices"][0]}
    return out


def _missing_fields(value: dict[str, Json]) -> dict[str, Json]:
    return {name: inner for name, inner in value.items() if name in ("choices", "usage", "message", "finishReason")}


_DEFAULTS = {"drift": "unknown_fields"}
_CHANGES: Mapping[tuple[str, str], Change] = {
    ("empty", "choices"): _no_choices,
    ("empty", "content"): _no_content,
    ("no_usage", ""): _no_usage,
    ("neither", ""): _no_end,
    ("drift", "unknown_fields"): _unknown_fields,
    ("drift", "wrong_types"): _wrong_types,
    ("drift", "missing_fields"): _missing_fields,
}
