"""Oracle's GENERIC stream as OpenAI's: lines in, events out. Pure; how bytes come is oci.py's matter.

Rule 1. Every `data` line is an event of its own: Oracle's may stand apart by a single line feed. JSON that goes on in
        the next `data` line of the same event is put together first.
Rule 2. A new id is a new tool call; what has no id goes on with the last one. Outward a call has one id and one index.
Rule 3. What came before a fault is handed out before the fault.

Source: captures of Llama 3.3 (oracle/langchain-oracle#316, BerriAI/litellm#39507, #40040): text may stand in the finish
event, usage comes after it, `pad` is only padding, `[DONE]` may be missing."""

from typing import NamedTuple

import msgspec

from gateway import sse
from gateway.errors import UpstreamError
from providers._completion import Chunks
from providers._emulation import Word
from providers._oci_answer import (
    Asked,
    Call,
    Logprobs,
    Message,
    Usage,
    arguments_of,
    call_id,
    failure_of,
    finish_of,
    logprobs_of,
    text_of,
    usage_of,
)
from providers._oci_messages import ABSENT, NOTHING, characters

_BOM = b"\xef\xbb\xbf"
_encode = msgspec.json.Encoder().encode


class _Event(msgspec.Struct, rename="camel"):
    index: int | None = None
    message: Message | str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    usage: Usage | None = None
    code: str | int | None = None
    error: msgspec.Raw = ABSENT


_decode_event = msgspec.json.Decoder(_Event).decode


class Lines:
    """Cuts bytes into lines, however they came; lines end with LF, CRLF or CR (WHATWG HTML, 9.2.6)."""

    __slots__ = ("_began", "_pending", "_unix")

    def __init__(self) -> None:
        self._pending = b""
        self._began, self._unix = False, True

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now. Raises UpstreamError when one is too large."""
        data = self._pending + data if self._pending else data
        if not self._began:
            if len(data) < 3 and _BOM.startswith(data):
                self._pending = data
                return []
            data, self._began = data.removeprefix(_BOM), True
        if not self._unix or b"\r" in data:
            data = self._normalised(data)
        lines = data.split(b"\n")
        self._pending = lines.pop()
        if len(self._pending) > sse.MAX_EVENT_BYTES:
            raise UpstreamError("too_large", f"sent an event of more than {sse.MAX_EVENT_BYTES} bytes")
        return lines

    def _normalised(self, data: bytes) -> bytes:
        """A CR at the very end may be half of a CRLF and stays."""
        self._unix = False
        tail = b"\r" if data.endswith(b"\r") else b""
        return data.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + tail

    def rest(self) -> list[bytes]:
        """What is left at the end: the last line, if only its end is missing."""
        rest, self._pending = self._pending.rstrip(b"\r"), b""
        return [rest] if rest else []


class _OpenCall(NamedTuple):
    id: str
    place: int


class _State:
    """What is known of one choice: its calls by id, the last of them, whether it began, whether it ended."""

    __slots__ = ("began", "calls", "finished", "last", "told")

    def __init__(self) -> None:
        self.calls: dict[str, _OpenCall] = {}
        self.last: _OpenCall | None = None
        self.began = self.finished = self.told = False


class Translator:
    """One stream. Give bytes to `feed`, at the clean end ask for `end`; afterwards look at `fault`.

    `said` counts the `data` lines so far, `content` says that an answer has begun. Owns the state of every choice."""

    def __init__(self, asked: Asked, degraded: dict[str, Word]) -> None:
        self.asked, self.degraded = asked, degraded
        self.fault: UpstreamError | None = None
        self.said, self.content = 0, False
        self._lines = Lines()
        self._chunks = Chunks(asked.id, asked.created, asked.model)
        self._states: dict[int, _State] = {}
        self._partial = b""
        self._usage: Usage | None = None
        self._characters = 0
        self._done = False

    def feed(self, data: bytes) -> bytes:
        """Whole events of OpenAI's stream, b"" while there is none."""
        if self.fault is not None or self._done:
            return b""
        out: list[bytes] = []
        try:
            for line in self._lines.feed(data):
                self._line(line, out)
        except UpstreamError as error:
            self.fault = error
        return b"".join(out)

    def end(self) -> bytes:
        """The end of the upstream's body: usage and [DONE] if every choice was finished, else nothing."""
        out: list[bytes] = []
        if self.fault is None and not self._done:
            try:
                for line in [*self._lines.rest(), b""]:
                    self._line(line, out)
            except UpstreamError as error:
                self.fault = error
        finished = sum(state.finished for state in self._states.values())
        if self.fault is None and not self._done and finished >= self.asked.choices:
            out.append(self._closing())
        return b"".join(out)

    def _line(self, line: bytes, out: list[bytes]) -> None:
        if self._done:
            return
        if not line.startswith(b"data:"):
            if not line and self._partial:
                raise UpstreamError("shape", "sent an event that is not a piece of a chat")
            return
        self.said += 1
        payload = line[5:].removeprefix(b" ")
        if self._partial:
            payload, self._partial = self._partial + b"\n" + payload, b""
        if not payload.strip():
            return
        if payload.strip() == b"[DONE]":
            out.append(self._closing())
            return
        event = self._decoded(payload)
        if event is not None:
            self._event(event, out)

    def _decoded(self, payload: bytes) -> _Event | None:
        """The event; None while it goes on in another line."""
        try:
            if not payload.isascii():
                payload.decode()
            return _decode_event(payload)
        except msgspec.ValidationError as error:
            raise UpstreamError("shape", "sent an event that is not a piece of a chat") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if "truncated" in str(error) and len(payload) <= sse.MAX_EVENT_BYTES:
                self._partial = payload
                return None
            raise UpstreamError("shape", "sent an event that is not JSON") from error

    def _event(self, event: _Event, out: list[bytes]) -> None:
        message = event.message
        if event.code is not None or isinstance(message, str) or bytes(event.error) not in NOTHING:
            text = message if isinstance(message, str) else None
            failure = failure_of(event.code, text, bytes(event.error))
            assert failure is not None
            raise failure
        if event.usage is not None:
            self._usage = event.usage
        if message is None and event.finish_reason is None:
            return
        index = self._index(event.index)
        state = self._states.get(index)
        if state is None:
            state = self._states[index] = _State()
        if message is not None:
            self._message(message, event.logprobs, state, index, out)
        if event.finish_reason is not None and not state.finished:
            self._finish(event.finish_reason, state, index, out)

    def _index(self, said: int | None) -> int:
        """The choice an event belongs to: the one it names, else the first that is not finished."""
        if said is not None:
            return said
        return next((index for index, state in sorted(self._states.items()) if not state.finished), 0)

    def _message(
        self, message: Message, logprobs: Logprobs | None, state: _State, index: int, out: list[bytes]
    ) -> None:
        text = text_of(message.content)
        if text:
            self._characters += characters(text)
            if logprobs is None and state.began:  # nearly all
                out.append(self._chunks.delta(b'"content":' + text, index))
                self.content = True
            else:
                self._delta(b'"content":' + text, state, index, out, logprobs)
        for name, raw in (("refusal", bytes(message.refusal)), ("reasoning_content", bytes(message.reasoning_content))):
            if raw not in NOTHING:
                self._delta(b'"%b":%b' % (name.encode(), raw), state, index, out)
        for call in message.tool_calls or ():
            self._call(call, state, index, out)

    def _delta(
        self, fields: bytes, state: _State, index: int, out: list[bytes], logprobs: Logprobs | None = None
    ) -> None:
        """One event; a choice's first one says the role."""
        if not state.began:
            state.began = True
            fields = b'"role":"assistant",' + (b"" if b'"content":' in fields else b'"content":null,') + fields
        self.content = True
        out.append(self._chunks.delta(fields, index, None, logprobs_of(logprobs, self.asked.top_logprobs)))

    def _call(self, call: Call, state: _State, index: int, out: list[bytes]) -> None:
        arguments = arguments_of(call)
        self._characters += characters(arguments) if arguments else 0
        known = state.calls.get(call.id) if call.id else state.last
        if known is None or (not call.id and call.name and state.told):  # without an id, a name after arguments is new
            known = self._new_call(call, state, index)
            fields = b'"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":%b}}]' % (
                known.place,
                _encode(known.id),
                _encode(call.name or ""),
                arguments or b'""',
            )
            self._delta(fields, state, index, out)
        elif arguments:
            fields = b'"tool_calls":[{"index":%d,"function":{"arguments":%b}}]' % (known.place, arguments)
            self._delta(fields, state, index, out)
        state.last, state.told = known, state.told or bool(arguments)

    def _new_call(self, call: Call, state: _State, index: int) -> _OpenCall:
        place = len(state.calls)
        opened = _OpenCall(call.id or call_id(self.asked.id, index, place), place)
        state.calls[opened.id] = opened
        state.told = False
        return opened

    def _finish(self, reason: str, state: _State, index: int, out: list[bytes]) -> None:
        word, known = finish_of(reason, calls=bool(state.calls))
        if not state.began:  # an empty answer is an answer
            self._delta(b'"content":""', state, index, out)
        state.finished = True
        event = self._chunks.delta(b"", index, word)
        if not known:
            self.degraded["finish_reason"] = "emulated"
            event = event.replace(b"}]}\n\n", b',"native_finish_reason":%b}]}\n\n' % _encode(reason))
        out.append(event)

    def _closing(self) -> bytes:
        self._done = True
        if self._usage is None:
            return sse.DONE
        usage = usage_of(self._usage, self.asked.prompt_characters, self._characters)
        return self._chunks.usage(usage) + sse.DONE
