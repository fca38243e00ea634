"""The stream contract: bytes through as they come, never an event cut, never an end that looks whole and is not.

Rule 1. Nothing leaves before the first content event; until then every failure is another attempt's chance.
Rule 2. After it, pieces of whole events pass; only `model` is rewritten and usage hidden that nobody asked for.
Rule 3. A stream is whole when every choice gave a finish_reason, or [DONE] came. Any other end is said: one event with
        `stream_incomplete`, no [DONE].
Rule 4. Only data moves the idle limit; comments do not.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from gateway import answer, sse
from gateway.errors import ArrieroError, UpstreamError, error_body
from gateway.peek import rewrite, spans
from gateway.types import Call, Reply, Span, Usage

_encode = msgspec.json.Encoder().encode
MAX_HELD_BYTES = 1024 * 1024
"""What may come before the first content event."""
FINISH_S = 0.1


class Frame(NamedTuple):
    """What stands before and after the text of a cloud's chunk, as it comes and as it goes: most chunks of a stream
    differ in nothing but that text."""

    before: bytes
    after: bytes
    opened: bytes
    closed: bytes

    def around(self, piece: bytes) -> bytes:
        """The piece as it goes, if it is one event that differs in nothing but a text; else b""."""
        if not piece.startswith(self.before) or not piece.endswith(self.after):
            return b""
        text = piece[len(self.before) : -len(self.after)]
        if not text or b'"' in text or b"\n" in text or text[-1:] == b"\\":
            return b""
        return self.opened + text + self.closed


_texts = re.compile(rb'"(?:content|text)": ?"([^"\\\n]+)"').finditer


def frame(event: bytes, renamed: bytes) -> Frame | None:
    """The frame of an event with one text in it, None where that is not plain to see."""
    places, places_renamed = list(_texts(event)), list(_texts(renamed))
    if len(places) != 1 or len(places_renamed) != 1:
        return None
    (start, end), (start_renamed, end_renamed) = places[0].span(1), places_renamed[0].span(1)
    return Frame(event[:start], event[end:], renamed[:start_renamed], renamed[end_renamed:])


class Stream:
    """One upstream stream on its way to the client. Give it every `piece` until that is b""; then look at `fault`."""

    __slots__ = (
        "_call", "_done", "_end_is_close", "_finished", "_first", "_frame", "_held", "_lessons", "_name", "_needle",
        "_reply", "_splitter", "_usage_event", "content_events", "fault", "usage",
    )  # fmt: skip

    def __init__(self, call: Call, reply: Reply, stream_end: str) -> None:
        self._call, self._reply = call, reply
        self._end_is_close = stream_end == "close"
        self._splitter = sse.Splitter()
        self._held = b""
        self._done = False
        self._finished = 0
        self._first = self._needle = self._name = self._usage_event = b""
        self._frame: Frame | None = None
        self._lessons = 4  # in some streams no chunk is like the one before
        self.content_events = 0
        self.usage: Usage | None = None
        self.fault: UpstreamError | None = None

    async def open(self) -> None:
        """Reads up to the first content event. Raises UpstreamError for whatever comes instead."""
        if "event-stream" not in self._reply.headers.get("content-type", "").lower():
            await self._not_a_stream()
        held: list[bytes] = []
        while True:
            data = await self._reply.chunk()
            events = sse.events(self._splitter.feed(data) if data else self._splitter.rest())
            for index, event in enumerate(events):
                if self._opens(event, held):
                    self._held = b"".join(held + events[index + 1 :])
                    self._reply.alive()
                    return
            if not data:
                raise UpstreamError("empty", "ended its stream before any content")
            if sum(map(len, held)) > MAX_HELD_BYTES:
                raise UpstreamError("shape", f"sent {MAX_HELD_BYTES} bytes without any content")

    def _opens(self, event: bytes, held: list[bytes]) -> bool:
        """Whether an event is the first content; what is not a comment is kept for the client."""
        said = sse.said(event)
        if said.error is not None:
            raise said.error
        if said.kind == "comment":
            return False
        if said.kind == "done":
            raise UpstreamError("empty", "ended its stream before any content")
        held.append(event)
        if said.kind != "content":
            return False
        self._learn_model(event)
        self._first = event
        return True

    async def _not_a_stream(self) -> None:
        """A 200 that is no event stream: the error in it, or what it is instead."""
        content_type = self._reply.headers.get("content-type", "")
        body = await self._reply.read()
        answer.read(body, content_type, self._call.endpoint)
        raise UpstreamError("not_json", f"answered a stream with {content_type.split(';')[0][:40]}, not with events")

    def _learn_model(self, event: bytes) -> None:
        """How this cloud writes its model into every chunk, so that later chunks are rewritten by one search."""
        data = sse.payload(event)
        span = _fields(data).get("model")
        if span is not None and data.count(data[span.key : span.end]) == 1:
            self._needle = data[span.key : span.end]
            self._name = data[span.key : span.start] + _encode(self._call.model)

    async def piece(self) -> bytes:
        """The next whole events for the client, b"" after the last. After the end `fault` says whether it was whole."""
        if self._held:
            held, self._held = self._held, b""
            if out := self._edit_events(held):
                return out
        while not self._done:
            try:
                data = await self._reply.chunk()
                piece = self._splitter.feed(data) if data else self._last()
            except UpstreamError as error:
                return self._end(error)
            out = self._edit(piece) if piece else b""
            if not data and not self._done:
                return out + self._end(None)
            if out:
                return out
            if _has_data(self._splitter.unfinished):
                self._reply.alive()
        return b""

    def _last(self) -> bytes:
        """The last event, if only its empty line is missing; half an event is nobody's."""
        rest = self._splitter.rest()
        try:
            return rest if sse.said(rest).kind != "comment" else b""
        except UpstreamError:
            return b""

    async def finish(self) -> None:
        """After the last piece: waits a moment for the end of the answer, so that the connection can be used again."""
        try:
            async with asyncio.timeout(FINISH_S):
                while self.fault is None and await self._reply.chunk():
                    pass
        except (TimeoutError, UpstreamError):
            return

    def _edit(self, piece: bytes) -> bytes:
        """Whole events as the client may see them. Plain content, which is nearly all, costs a few searches."""
        if self._frame is not None and (framed := self._frame.around(piece)):
            self._reply.alive()
            self.content_events += 1
            return framed
        count = piece.count(b"\n\n")
        if not _is_plain(piece, count):
            return self._edit_events(piece)
        if piece.count(self._needle) == count:  # never of an empty one
            renamed = piece.replace(self._needle, self._name)
        elif b'"model"' in piece:
            return self._edit_events(piece)
        else:
            renamed = piece
        self._reply.alive()
        self.content_events += count
        if count == 1 and self._lessons:
            self._lessons -= 1
            self._frame = frame(piece, renamed)
        return renamed

    def _edit_events(self, piece: bytes) -> bytes:
        out: list[bytes] = []
        for event in sse.events(piece):
            out.append(self._edit_event(event))
            if self._done:
                break
        return b"".join(out)

    def _edit_event(self, event: bytes) -> bytes:
        try:
            said = sse.said(event)
        except UpstreamError:
            self._reply.alive()
            return event  # not ours to repair: the client sees what the cloud sent
        if said.kind == "comment":
            return event
        self._reply.alive()
        if said.error is not None:
            return self._end(said.error)
        if said.kind == "done":
            return self._whole()
        self._finished += said.finished
        self.content_events += said.kind == "content"
        event = self._renamed(event)
        return self._with_usage(event, said) if said.usage else event

    def _renamed(self, event: bytes) -> bytes:
        """The event with its top-level `model`, if it has one, as the caller named it."""
        if b'"model"' not in event:
            return event
        data = sse.payload(event)
        fields = _fields(data)
        if "model" not in fields:
            return event
        return sse.with_payload(event, rewrite(data, fields, {"model": _encode(self._call.model)}))

    def _with_usage(self, event: bytes, said: sse.Said) -> bytes:
        """Usage as OpenAI shows it: in an event of its own, to who asked. Some clouds tell it beside content."""
        self.usage = said.usage
        shown = self._call.include_usage
        if said.kind == "usage":
            self._usage_event = event if shown else b""  # held to the end: some clouds tell it twice
            return b""
        if shown and self._wants_usage_in_every_chunk():
            return event
        if shown:
            self._usage_event = sse.only_usage(event)
        return sse.without_usage(event)

    def _wants_usage_in_every_chunk(self) -> bool:
        """vLLM's own option, which a caller may know."""
        span = self._call.fields["stream_options"]
        return b'"continuous_usage_stats"' in self._call.body[span.start : span.end]

    def _whole(self) -> bytes:
        """The end of a whole answer; before it the usage that was asked for, where this cloud told it elsewhere."""
        self._done = True
        if self._call.include_usage and self.usage is None:
            return self._estimated() + sse.DONE
        return self._usage_event + sse.DONE

    def _estimated(self) -> bytes:
        """Usage that was asked for and that the cloud did not tell: counted here, and marked so."""
        prompt, output = self._call.prompt_tokens, self.content_events
        usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
        data = sse.payload(self._renamed(self._first))
        marked = _encode({**usage, "estimated": True})
        return sse.event(rewrite(data, _fields(data), {"choices": b"[]", "usage": marked}))

    def _end(self, error: UpstreamError | None) -> bytes:
        """The last bytes for the client: [DONE] for a whole answer, else the event that says it is not."""
        if self._finished >= self._call.choices or (error is None and self._end_is_close):
            return self._whole()
        self._done = True
        self.fault = error or UpstreamError("closed", "ended its stream without finish_reason and [DONE]")
        return incomplete(f"The upstream {self.fault.message}.")


def incomplete(message: str) -> bytes:
    """The event that says that what came before is not the whole answer."""
    return sse.event(error_body(f"The answer is incomplete. {message}", "server_error", None, "stream_incomplete"))


def _fields(data: bytes) -> Mapping[str, Span]:
    try:
        return spans(data)
    except ArrieroError:
        return {}


def _is_plain(piece: bytes, count: int) -> bool:
    """Whether that many events are each one line of data without an end, usage or error in it, however it is spaced."""
    return (
        piece.count(b"\n") == 2 * count
        and piece.startswith(b"data:")
        and piece.count(b"\n\ndata:") == count - 1
        and _is_null(piece, b'finish_reason"')
        and _is_null(piece, b'usage"')
        and b'error"' not in piece
        and piece.count(b'"choices"') == count
        and b"[DONE]" not in piece
    )


def _is_null(piece: bytes, key: bytes) -> bool:
    """Whether a key is absent or null wherever it stands."""
    count = piece.count(key)
    return not count or count == piece.count(key + b":null") or count == piece.count(key + b": null")


def _has_data(unfinished: bytes) -> bool:
    """Whether an event that is not whole holds more than comments so far."""
    return unfinished.startswith(b"data:") or b"\ndata:" in unfinished
