"""Converse's answers in OpenAI's form: whole ones, and the events of a stream as they come. Pure.

Rule 1. A call's arguments are the bytes that came: no number in them is read and written again.
Rule 2. A reason to end that is not known here is a fault: to call it `stop` would be to say that the answer is whole.
Rule 3. An exception inside a stream is a fault of its kind, after all that came before it.

Source: botocore 1.44.5, service model bedrock-runtime, ConverseResponse and ConverseStreamOutput."""

from collections.abc import Mapping

import msgspec

from gateway import sse
from gateway.errors import UpstreamError
from providers import _bedrock_errors as errors
from providers._completion import Choice, Chunks, Completion, Function, Message, Tokens, ToolCall, tokens
from providers._emulation import Identity
from providers._eventstream import Decoder
from providers._eventstream import Message as Frame

FINISH_REASONS: Mapping[str, str] = {
    "content_filtered": "content_filter",
    "end_turn": "stop",
    "guardrail_intervened": "content_filter",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
"""Bedrock's stopReason in OpenAI's words; malformed_model_output and malformed_tool_use have none."""


def finish_reason(stop_reason: str, has_calls: bool) -> str:
    """Raises UpstreamError for an answer that the model spoilt, and for a reason that is not known."""
    found = FINISH_REASONS.get(stop_reason)
    if found is None:
        raise UpstreamError("shape", f"ended its answer for the reason '{stop_reason[:40]}'")
    return "tool_calls" if has_calls and found == "stop" else found


class _Usage(msgspec.Struct):
    input: int = msgspec.field(name="inputTokens", default=0)
    output: int = msgspec.field(name="outputTokens", default=0)
    cache_read: int | None = msgspec.field(name="cacheReadInputTokens", default=None)
    cache_write: int | None = msgspec.field(name="cacheWriteInputTokens", default=None)

    def tokens(self) -> Tokens:
        """OpenAI's prompt counts what was read from the cache and written to it; Bedrock's input counts neither."""
        read, write = self.cache_read, self.cache_write
        return tokens(self.input + (read or 0) + (write or 0), self.output, read)


class _ToolUse(msgspec.Struct, rename={"id": "toolUseId"}):
    id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _ReasoningText(msgspec.Struct):
    text: str = ""


class _Reasoning(msgspec.Struct, rename="camel"):
    reasoning_text: _ReasoningText | None = None


class _Generated(msgspec.Struct):
    text: str = ""


class _Citations(msgspec.Struct):
    content: list[_Generated] = []


class _Block(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Reasoning | None = None
    citations_content: _Citations | None = None


class _Message(msgspec.Struct):
    content: list[_Block]


class _Output(msgspec.Struct):
    message: _Message


class _Whole(msgspec.Struct, rename="camel"):
    output: _Output
    stop_reason: str
    usage: _Usage | None = None
    trace: msgspec.Raw = sse.ABSENT


_decode_whole = msgspec.json.Decoder(_Whole).decode


def completion(body: bytes, identity: Identity) -> Completion:
    """A whole answer. Raises UpstreamError not_json or shape."""
    try:
        found = _decode_whole(body)
    except msgspec.ValidationError as error:
        raise UpstreamError("shape", "answered 200 with JSON of another shape") from error
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise UpstreamError("not_json" if body.strip() else "empty", "answered 200 without JSON") from error
    message = _message(found.output.message.content)
    reason = finish_reason(found.stop_reason, bool(message.tool_calls))
    choice = Choice(message=message, finish_reason=reason)
    usage = found.usage.tokens() if found.usage else None
    extra = {} if bytes(found.trace) in sse.NOTHING else {"trace": found.trace}
    return Completion(identity.id, identity.created, identity.model, [choice], usage, extra)


def _message(blocks: list[_Block]) -> Message:
    texts = [block.text for block in blocks if block.text is not None]
    texts += [part.text for block in blocks if block.citations_content for part in block.citations_content.content]
    uses = [block.tool_use for block in blocks if block.tool_use]
    thought = [b.reasoning_content.reasoning_text for b in blocks if b.reasoning_content]
    thoughts = [part.text for part in thought if part is not None]
    message = Message(content="".join(texts) if texts or not uses else None)
    if uses:
        functions = [Function(use.name, bytes(use.input).decode()) for use in uses]
        message.tool_calls = [ToolCall(id=use.id, function=f) for use, f in zip(uses, functions, strict=True)]
    if thoughts:
        message.reasoning_content = "".join(thoughts)
    return message


class _ToolDelta(msgspec.Struct):
    input: str = ""


class _Delta(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: _ToolDelta | None = None
    reasoning_content: _ReasoningText | None = None


class _BlockDelta(msgspec.Struct, rename={"index": "contentBlockIndex"}):
    delta: _Delta
    index: int = 0


class _Start(msgspec.Struct, rename="camel"):
    tool_use: _ToolUse | None = None


class _BlockStart(msgspec.Struct, rename={"index": "contentBlockIndex"}):
    start: _Start
    index: int = 0


class _BlockStop(msgspec.Struct, rename={"index": "contentBlockIndex"}):
    index: int = 0


class _Stop(msgspec.Struct, rename="camel"):
    stop_reason: str


class _Metadata(msgspec.Struct):
    usage: _Usage | None = None
    trace: msgspec.Raw = sse.ABSENT


_decode_delta = msgspec.json.Decoder(_BlockDelta).decode
_decode_start = msgspec.json.Decoder(_BlockStart).decode
_decode_block_stop = msgspec.json.Decoder(_BlockStop).decode
_decode_stop = msgspec.json.Decoder(_Stop).decode
_decode_metadata = msgspec.json.Decoder(_Metadata).decode


class Stream:
    """ConverseStream's bytes to OpenAI's events; a Translator of _emulation.py."""

    def __init__(self, chunks: Chunks) -> None:
        self._decoder = Decoder()
        self._chunks = chunks
        self._calls: dict[int, tuple[int, bool]] = {}  # block -> (place of the call, whether arguments came)
        self._finished = self._done = False
        self.fault: UpstreamError | None = None
        self._events = {
            "contentBlockDelta": self._delta,
            "contentBlockStart": self._block_start,
            "contentBlockStop": self._block_stop,
            "messageStart": lambda payload: self._chunks.opening(),
            "messageStop": self._stop,
            "metadata": self._metadata,
        }

    def feed(self, data: bytes) -> bytes:
        """The events that came whole; after a fault those before it."""
        out: list[bytes] = []
        try:
            out.extend(map(self._event, self._decoder.feed(data)))  # keeps what came before a fault
        except UpstreamError as error:
            self.fault = error
        self.fault = self.fault or self._decoder.fault
        return b"".join(out)

    def end(self) -> bytes:
        """Bedrock's bytes ended: [DONE] where the answer did so before."""
        self._decoder.end()
        self.fault = self.fault or self._decoder.fault
        return sse.DONE if self._finished and not self._done and self.fault is None else b""

    def _event(self, frame: Frame) -> bytes:
        kind = frame.headers.get(":message-type")
        if kind == "exception":
            raise errors.in_stream(str(frame.headers.get(":exception-type", "")), frame.payload)
        if kind == "error":
            raise errors.in_stream(str(frame.headers.get(":error-code", "")), b"")
        handle = self._events.get(str(frame.headers.get(":event-type")))
        if kind != "event":
            raise UpstreamError("protocol", "sent a frame that is no event")
        if handle is None:
            return b""  # an event of a later version
        try:
            if not frame.payload.isascii():
                frame.payload.decode()
            return handle(frame.payload)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise UpstreamError("shape", "sent an event of another shape") from error

    def _delta(self, payload: bytes) -> bytes:
        found = _decode_delta(payload)
        delta = found.delta
        if delta.text is not None:
            return self._chunks.text(delta.text) if delta.text else b""
        if delta.tool_use is not None:
            place, came = self._calls.get(found.index, (-1, False))
            if place < 0:
                raise UpstreamError("shape", "sent arguments of a call that has not begun")
            fragment = delta.tool_use.input
            self._calls[found.index] = (place, came or bool(fragment))
            return self._chunks.arguments(place, fragment) if fragment else b""
        if delta.reasoning_content is not None and delta.reasoning_content.text:
            return self._chunks.reasoning(delta.reasoning_content.text)
        return b""

    def _block_start(self, payload: bytes) -> bytes:
        found = _decode_start(payload)
        use = found.start.tool_use
        if use is None or found.index in self._calls:  # that a call begins is said once
            return b""
        self._calls[found.index] = (len(self._calls), False)
        return self._chunks.call(len(self._calls) - 1, use.id, use.name)

    def _block_stop(self, payload: bytes) -> bytes:
        """A call without arguments has an empty object of them: an empty text would be no JSON."""
        block = _decode_block_stop(payload).index
        place, came = self._calls.get(block, (-1, True))
        if came:
            return b""
        self._calls[block] = (place, True)
        return self._chunks.arguments(place, "{}")

    def _stop(self, payload: bytes) -> bytes:
        if self._finished:
            return b""
        reason = finish_reason(_decode_stop(payload).stop_reason, bool(self._calls))
        self._finished = True
        return self._chunks.finish(reason)

    def _metadata(self, payload: bytes) -> bytes:
        """The last event, which is always sent."""
        found = _decode_metadata(payload)
        extra = {} if bytes(found.trace) in sse.NOTHING else {"trace": found.trace}
        usage = b"" if found.usage is None else self._chunks.usage(found.usage.tokens(), extra)
        self._done = self._finished
        return usage + sse.DONE if self._finished else usage
