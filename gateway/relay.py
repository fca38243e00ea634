"""The stream contract: bytes through as they come, never an event cut, never an end that looks whole and is not.

Rule 1. Nothing leaves before the first content event; until then every failure is another attempt's chance.
Rule 2. After it, pieces of whole events pass; only `model` is rewritten and usage hidden that nobody asked for.
Rule 3. A stream is whole when every choice gave a finish_reason, or [DONE] came. Any other end is said: one event with
        `stream_incomplete`, no [DONE].
Rule 4. Only data moves the idle limit; comments do not.
"""

import asyncio
import re

import msgspec

from gateway import answer, sse
from gateway.errors import UpstreamError, error_body
from gateway.types import Call, Reply, Usage

_encode = msgspec.json.Encoder().encode
_model_at = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"').search
MAX_HELD_BYTES = 1024 * 1024
"""What may come before the first content event."""
FINISH_S = 0.1


class Stream:
    """One upstream stream on its way to the client. Give it every `piece` until that is b""; then look at `fault`."""

    __slots__ = (
        "_call", "_done", "_end_is_close", "_finished", "_held", "_name", "_needle", "_reply", "_splitter",
        "_usage_event", "content_events", "fault", "usage",
    )  # fmt: skip

    def __init__(self, call: Call, reply: Reply, stream_end: str) -> None:
        self._call, self._reply = call, reply
        self._end_is_close = stream_end == "close"
        self._splitter = sse.Splitter()
        self._held = b""
        self._done = False
        self._finished = 0
        self._needle = self._name = self._usage_event = b""
        self.content_events = 0
        self.usage: Usage | None = None
        self.fault: UpstreamError | None = None

    async def open(self) -> None:
        """Reads up to the first content event. Raises UpstreamError for whatever comes instead."""
        if "event-stream" not in self._reply.headers.get("content-type", ""):
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
        return True

    async def _not_a_stream(self) -> None:
        """A 200 that is no event stream: the error in it, or what it is instead."""
        content_type = self._reply.headers.get("content-type", "")
        body = await self._reply.read()
        answer.read(body, content_type, self._call.endpoint)
        raise UpstreamError("not_json", f"answered a stream with {content_type.split(';')[0][:40]}, not with events")

    def _learn_model(self, event: bytes) -> None:
        """How this cloud writes its model into every chunk, so that later chunks are rewritten by one search."""
        match = _model_at(event)
        name = b'"model":' + _encode(self._call.model)
        if match and event.count(b"{", 0, match.start()) == 1 and match[0] != name:
            self._needle, self._name = match[0], name

    async def piece(self) -> bytes:
        """The next whole events for the client, b"" after the last. After the end `fault` says whether it was whole."""
        if self._held:
            held, self._held = self._held, b""
            if out := self._edit(held):
                return out
        while not self._done:
            try:
                data = await self._reply.chunk()
                piece = self._splitter.feed(data) if data else self._splitter.rest()
            except UpstreamError as error:
                return self._end(error)
            if b"data" in piece or (data and not piece and not data.startswith(b":")):
                self._reply.alive()
            out = self._edit(piece) if piece else b""
            if not data and not self._done:
                return out + self._end(None)
            if out:
                return out
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
        if self._needle:
            piece = piece.replace(self._needle, self._name)
        if (
            b'"finish_reason":"' not in piece
            and b'"usage":{' not in piece
            and b'"error"' not in piece
            and b"[DONE]" not in piece
            and b'": ' not in piece
        ):
            self.content_events += piece.count(b"data:")
            return piece
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
            return event  # not ours to repair: the client sees what the cloud sent
        if said.error is not None:
            return self._end(said.error)
        self._finished += said.finished
        if said.usage:
            self.usage = said.usage
        if said.kind == "done":
            return self._whole()
        if said.kind == "content":
            self.content_events += 1
        if not said.usage:
            return event
        if self._call.include_usage:
            self._usage_event = b"" if said.kind == "usage" else sse.only_usage(event)
            return event
        return b"" if said.kind == "usage" else sse.without_usage(event)

    def _whole(self) -> bytes:
        """The end of a whole answer; before it the usage that was asked for, where this cloud told it elsewhere."""
        self._done = True
        return self._usage_event + sse.DONE

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
