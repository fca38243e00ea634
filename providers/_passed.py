"""What a pass-through cloud lacks: stood in for, or left out of the body. A call that lacks nothing never comes here.

Rule 1. What is kept of a body keeps its bytes.
Rule 2. Every call that an emulation makes goes out as any other call of the account does."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import msgspec

from gateway import sse
from gateway.answer import read as checked
from gateway.errors import UpstreamError
from gateway.peek import rewrite, spans
from gateway.transport.client import Response
from gateway.types import DROPPABLE, Call, Deployment, Reply
from providers import _emulation
from providers._completion import NULL, Choice, Chunks, Completion, Cutter, Message, Tokens, ToolCall
from providers._emulation import Fields, Identity, Plan, Translator, Whole, Word, refusal
from providers._parameters import untaken

_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_text = msgspec.json.Decoder(str | None).decode
_index = msgspec.json.Decoder(int).decode


class Prepared(NamedTuple):
    """A call without what the cloud does not get to see, and what is done about it."""

    call: Call
    plan: Plan


def prepared(call: Call, deployment: Deployment, takes: frozenset[str] | None) -> Prepared:
    """Pure. `takes` are the parameters of a cloud with a closed list. Raises UpstreamError 400 for what is neither
    there nor stood in for nor to be dropped."""
    plan = _emulation.plan(call, deployment, call.features)
    changes: dict[str, bytes | None] = {
        name: None for feature in plan.dropped for name in DROPPABLE[feature] if name in call.fields
    }
    degraded = dict(plan.degraded)
    closed = takes if call.endpoint == "chat/completions" else None
    for name, handling in (untaken(call, closed, deployment.missing) if closed else {}).items():
        if handling == "refused":
            raise refusal(f"'{name}' is not offered by {deployment.name}", name, "unknown_parameter")
        if handling == "dropped":
            degraded[name] = "dropped"
        changes[name] = None
    body = rewrite(call.body, call.fields, changes)
    return Prepared(_with_body(call, body, stream=call.stream), plan._replace(degraded=degraded))


def _with_body(call: Call, body: bytes, *, stream: bool) -> Call:
    return msgspec.structs.replace(call, body=body, fields=spans(body), stream=stream)


Carry = Callable[[Call], Awaitable[Response]]
"""Sends a call as any other of the account, and gives the good answer's head."""


async def answer(made: Prepared, deployment: Deployment, carry: Carry, first_byte_s: float) -> Reply:
    """The answer with what the cloud lacks stood in for. Raises UpstreamError."""
    identity = Identity(f"chatcmpl-{made.call.id}", int(time.time()), made.call.model)
    return await _emulation.answer(made.call, deployment, made.plan, Native(made.call, carry, first_byte_s), identity)


class Native:
    """What the cloud does by itself for one call; the Native of _emulation.py."""

    def __init__(self, call: Call, carry: Carry, first_byte_s: float) -> None:
        self._call, self._carry, self.first_byte_s = call, carry, first_byte_s
        self.degraded: dict[str, Word] = {}

    async def whole(self, fields: Fields) -> Whole:
        kept = {name: raw for name, raw in fields.items() if name not in ("stream", "stream_options")}
        response = await self._carry(_with_body(self._call, _object(kept), stream=False))
        try:
            body = await response.read()
        finally:
            response.close()
        return Whole(completion(body, response.headers.get("content-type", "")), response.headers)

    async def stream(self, fields: Fields, chunks: Chunks) -> tuple[Response, Translator]:
        response = await self._carry(_with_body(self._call, _object(fields), stream=True))
        kind = response.headers.get("content-type", "")
        if "event-stream" not in kind.lower():
            try:
                completion(await response.read(), kind)  # which says what is wrong if it is an error
            finally:
                response.close()
            raise UpstreamError("not_json", f"answered a stream with {kind.split(';')[0][:40]}, not with events")
        return response, Cut(chunks.stops)


def _object(fields: Fields) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (_encode(name), raw) for name, raw in fields.items())


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    index: int = 0
    logprobs: msgspec.Raw = NULL


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    id: str = ""
    created: int = 0
    model: str = ""
    usage: Tokens | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


def completion(body: bytes, content_type: str) -> Completion:
    """A whole answer as values. Raises UpstreamError for one that is none or an error, as of any call."""
    checked(body, content_type, "chat/completions")
    try:
        found = _decode_answer(body)
    except msgspec.MsgspecError as error:
        raise UpstreamError("shape", "answered 200 with JSON of another shape") from error
    return Completion(found.id, found.created, found.model, [_choice(choice) for choice in found.choices], found.usage)


def _choice(found: _Choice) -> Choice:
    said = found.message
    message = Message(content=said.content, refusal=said.refusal)
    if said.reasoning_content is not None:
        message.reasoning_content = said.reasoning_content
    if said.tool_calls:
        message.tool_calls = said.tool_calls
    reason = found.finish_reason or "stop"
    return Choice(index=found.index, message=message, logprobs=found.logprobs, finish_reason=reason)


class Cut:
    """A stream whose choices end at the first of some stop strings. What else is in it passes; so does an error."""

    fault: UpstreamError | None = None

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._splitter = sse.Splitter()
        self._cutters: dict[int, Cutter] = {}

    def feed(self, data: bytes) -> bytes:
        return b"".join(map(self._event, sse.events(self._splitter.feed(data))))

    def end(self) -> bytes:
        return b"".join(map(self._event, sse.events(self._splitter.rest())))

    def _event(self, event: bytes) -> bytes:
        data = sse.payload(event)
        try:
            fields = _fields(data)
            choices = _choices(fields["choices"])
            cut = [kept for choice in choices if (kept := self._choice(choice)) is not None]
        except (msgspec.MsgspecError, KeyError, RecursionError, UnicodeError):
            return event
        if not cut and choices:
            return sse.only_usage(event) if sse.said(event).usage else b""
        fields["choices"] = msgspec.Raw(_encode(cut))
        return sse.event(_encode(fields))

    def _choice(self, choice: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw] | None:
        """The choice as far as it can be shown, None after its end."""
        index = _index(choice["index"]) if "index" in choice else 0
        cutter = self._cutters.setdefault(index, Cutter(self._stops))
        if cutter.hit:
            return None
        delta = _fields(choice.get("delta", msgspec.Raw(b"{}")))
        said = _text(delta["content"]) if "content" in delta else None
        shown = cutter.feed(said) if said else ""
        if cutter.hit:
            choice["finish_reason"] = msgspec.Raw(b'"stop"')
            choice.pop("logprobs", None)  # those of tokens that are not shown
        elif bytes(choice.get("finish_reason", b"null")) != b"null":
            shown += cutter.rest()
        if said or shown:
            delta["content"] = msgspec.Raw(_encode(shown))
        choice["delta"] = msgspec.Raw(_encode(delta))
        return choice
